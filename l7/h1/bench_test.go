package h1

import "testing"

// typicalRequest is what a browser sends: ten fields, 550 bytes.
const typicalRequest = "GET /assets/app/main.8f3c1.js?v=20240611 HTTP/1.1\r\n" +
	"Host: shop.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0\r\n" +
	"Accept: */*\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Referer: https://shop.example.com/catalog/shoes?page=2\r\n" +
	"Connection: keep-alive\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
	"Sec-Fetch-Dest: script\r\n" +
	"If-None-Match: \"5f2b-61a3c4\"\r\n\r\n"

const typicalResponse = "HTTP/1.1 200 OK\r\n" +
	"Date: Tue, 11 Jun 2024 10:00:00 GMT\r\n" +
	"Content-Type: text/html; charset=utf-8\r\n" +
	"Content-Length: 1024\r\n" +
	"Connection: keep-alive\r\n" +
	"Cache-Control: private, max-age=0\r\n" +
	"Server: origin/1.0\r\n\r\n"

func BenchmarkParseRequest(b *testing.B) {
	buf, limits := []byte(typicalRequest), Limits{}
	var r Request
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := r.Parse(buf, &limits); n != len(buf) {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseSmallRequest(b *testing.B) {
	buf, limits := []byte("GET /1k HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"), Limits{}
	var r Request
	b.ReportAllocs()
	for b.Loop() {
		if n, err := r.Parse(buf, &limits); n != len(buf) {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkParseRequestDribbled feeds a 32 KiB head byte by byte; MB/s must not
// fall with the size.
func BenchmarkParseRequestDribbled(b *testing.B) {
	head := "GET / HTTP/1.1\r\nHost: a\r\n"
	for len(head) < 16<<10 {
		head += "X-Filler: 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n"
	}
	buf, limits := []byte(head+"\r\n"), Limits{Fields: 1000}
	var r Request
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		for i := 1; i <= len(buf); i++ {
			if _, err := r.Parse(buf[:i], &limits); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	buf, limits := []byte(typicalResponse), Limits{}
	var r Response
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := r.Parse(buf, "GET", &limits); n != len(buf) {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	var r Request
	if _, err := r.Parse([]byte(typicalRequest), &Limits{}); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendRequest(dst[:0], r.Method, r.Target, r.Host, r.Fields, Out{})
	}
}

func BenchmarkAppendResponse(b *testing.B) {
	var r Response
	if _, err := r.Parse([]byte(typicalResponse), "GET", &Limits{}); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendResponse(dst[:0], r.Status, r.Reason, r.Fields, Out{Framing: r.Framing, Length: r.Length})
	}
}

func BenchmarkChunked(b *testing.B) {
	var wire []byte
	for range 16 {
		wire = AppendChunk(wire, make([]byte, 4096))
	}
	wire = AppendLastChunk(wire, nil)
	var body Body
	limits := Limits{}
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(Chunked, -1, &limits)
		for p := wire; !body.Done(); {
			_, n, err := body.Next(p)
			if err != nil {
				b.Fatal(err)
			}
			p = p[n:]
		}
	}
}
