package h2

import (
	"bytes"
	"strings"
	"testing"
)

// browser is what one sends with each request.
var browser = get("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
	"accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
	"accept-language", "en-US,en;q=0.5", "accept-encoding", "gzip, deflate, br, zstd", "referer", "https://www.example.com/some/where",
	"cookie", "session=0123456789abcdef0123456789abcdef; theme=dark", "sec-fetch-dest", "document", "sec-fetch-mode", "navigate")

// BenchmarkHead is a browser's head, all of it in the table.
func BenchmarkHead(b *testing.B) {
	c, _, w, _ := server(b, Config{})
	e := &echo{c: c, n: new(int)}
	c.handler = e
	w.head(1, true, browser...)
	_ = c.Receive(w.bytes(), 0)
	p := w.fields(browser...)
	var frame []byte
	b.ReportAllocs()
	for id := uint32(3); b.Loop(); id += 2 {
		frame = append(appendFrame(frame[:0], len(p), frameHeaders, flagEndHeaders|flagEndStream, id), p...)
		if err := c.Receive(frame, 0); err != nil {
			b.Fatal(err)
		}
		c.Advance(len(c.Output()))
	}
}

// BenchmarkServer is a request and its response of 1 KiB, 10 streams at once.
func BenchmarkServer(b *testing.B) {
	c, h, w, _ := server(b, Config{})
	h.quiet = true
	body := make([]byte, 1024)
	var n int
	h.onHead = nil
	c.handler = &echo{c: c, body: body, n: &n}
	_ = w.WriteWindowUpdate(0, 1<<30)
	_ = c.Receive(w.bytes(), 0)
	id := uint32(1)
	kv := get("user-agent", "bench/1", "accept", "*/*", "accept-encoding", "gzip")
	w.head(id, true, kv...)
	_ = c.Receive(w.bytes(), 0)
	p := w.fields(kv...) // all indexed
	output(c)
	var batch []byte
	b.ReportAllocs()
	for b.Loop() {
		batch = batch[:0]
		for range 10 {
			id += 2
			batch = appendFrame(batch, len(p), frameHeaders, flagEndHeaders|flagEndStream, id)
			batch = append(batch, p...)
		}
		if err := c.Receive(batch, 0); err != nil {
			b.Fatal(err)
		}
		c.Advance(len(c.Output()))
		c.sendWindow += 10240
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/req")
}

type echo struct {
	c    *Conn
	body []byte
	n    *int
}

func (e *echo) Head(s *Stream, h *Head, end bool) {
	*e.n++
	c := e.c
	c.BeginHead(s)
	c.Field(":status", "200")
	c.Field("Server", "bench")
	c.Field("Date", "Mon, 01 Jan 2024 00:00:00 GMT")
	c.Field("Content-Type", "text/plain")
	c.Field("Content-Length", "1024")
	c.EndHead(false)
	c.Write(s, e.body, true)
}
func (e *echo) Data(*Stream, []byte, bool)          {}
func (e *echo) Trailers(*Stream, []Field)           {}
func (e *echo) StreamDrained(*Stream)               {}
func (e *echo) Closed(*Stream, error)               {}
func (e *echo) Refused(uint32, *Head, *StreamError) {}

// BenchmarkBomb is a head of 7 KB that names a field of 3 900 bytes 3 000 times.
func BenchmarkBomb(b *testing.B) {
	c, _, w, _ := server(b, Config{Resets: 1 << 60})
	c.handler = &echo{c: c, n: new(int)}
	w.head(1, true, get("x", strings.Repeat("a", 3900))...)
	_ = c.Receive(w.bytes(), 0)
	p := append(w.fields(get("x", strings.Repeat("a", 3900))...), bytes.Repeat([]byte{0x80 | 62}, 3000)...)
	var frame []byte
	for id := uint32(3); b.Loop(); id += 2 {
		frame = append(appendFrame(frame[:0], len(p), frameHeaders, flagEndHeaders|flagEndStream, id), p...)
		if err := c.Receive(frame, 0); err != nil {
			b.Fatal(err)
		}
		c.Advance(len(c.Output()))
	}
}
