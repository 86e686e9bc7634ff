package h1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readBody feeds in to b in pieces and returns the content and what is left.
func readBody(b *Body, in string, piece int) (data, rest string, err error) {
	for len(in) > 0 && !b.Done() {
		p := []byte(in[:min(piece, len(in))])
		for len(p) > 0 && !b.Done() {
			content, n, err := b.Next(p)
			data += string(content)
			if err != nil {
				return data, in, err
			}
			if n == 0 {
				panic("nothing taken")
			}
			p, in = p[n:], in[n:]
		}
	}
	return data, in, nil
}

func TestChunkedRead(t *testing.T) {
	for _, c := range []struct {
		name, in, data string
		trailers       []Field
	}{
		{"one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello", nil},
		{"two chunks", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", nil},
		{"hex digits of both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", nil},
		{"leading zeros", "0005\r\nhello\r\n000\r\n\r\n", "hello", nil},
		{"nothing", "0\r\n\r\n", "", nil},
		{"CRLF as data", "2\r\n\r\n\r\n0\r\n\r\n", "\r\n", nil},
		{"extensions", "5;a=b;c=\"d;e\"\r\nhello\r\n0;x\r\n\r\n", "hello", nil},
		{"trailers", "1\r\na\r\n0\r\nX-T: 1\r\nX-U: \t2 \r\n\r\n", "a", []Field{{"X-T", "1"}, {"X-U", "2"}}},
		{"trailers that would be dangerous", "0\r\nContent-Length: 5\r\nHost: b\r\nX-Forwarded-For: c\r\nTransfer-Encoding: chunked\r\n" +
			"Cookie: d\r\nX_Y: e\r\nConnection: f\r\nContent-Type: g\r\ngrpc-status: 0\r\n\r\n", "", []Field{{"grpc-status", "0"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 1, 2, 3, 7} {
				var b Body
				b.Reset(Chunked, -1, &Limits{})
				data, rest, err := readBody(&b, c.in+"POISON", piece)
				if err != nil || data != c.data || rest != "POISON" || !b.Done() || b.EOF() != nil {
					t.Fatalf("in pieces of %d: got %q, rest %q, %v", piece, data, rest, err)
				}
				if diff := cmp.Diff(c.trailers, b.Trailers()); diff != "" && len(c.trailers)+len(b.Trailers()) > 0 {
					t.Errorf("trailers: want -, got +\n%s", diff)
				}
			}
		})
	}
}

func TestChunkedRefused(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     *Error
	}{
		// RFC 9112 sections 7.1 and 7.1.1.
		{"0x2", "0x2\r\nab\r\n0\r\n\r\n", errChunkSize},
		{"-2", "-2\r\nab\r\n", errChunkSize},
		{"+2", "+2\r\nab\r\n", errChunkSize},
		{"no size", "\r\nab\r\n", errChunkSize},
		{"no size, an extension", ";a=b\r\nab\r\n", errChunkSize},
		{"leading space", " 2\r\nab\r\n", errChunkSize},
		{"trailing space", "2 \r\nab\r\n", errChunkSize},
		{"space before an extension", "2 ;a\r\nab\r\n", errChunkSize},
		{"digits that are not hex", "2g\r\nab\r\n", errChunkSize},
		{"17 hex digits", "10000000000000002\r\nab\r\n", errChunkSize},
		{"16 hex digits", "ffffffffffffffff\r\nab\r\n", errChunkSize},
		{"LF inside an extension", "2;\nxx\r\n0\r\n\r\n", errChunkExt},
		{"CR inside an extension", "2;a\rb\r\nxx\r\n", errChunkLine},
		{"NUL in an extension", "2;a\x00\r\nxx\r\n", errChunkExt},
		{"size line ends in a bare LF", "2\nab\r\n0\r\n\r\n", errChunkLine},
		{"size line ends in a bare CR", "2\rab\r\n0\r\n\r\n", errChunkLine},
		{"no CRLF after the data", "2\r\nabX\r\n0\r\n\r\n", errChunkEnd},
		{"bare LF after the data", "2\r\nab\n0\r\n\r\n", errChunkEnd},
		{"CR and no LF after the data", "2\r\nab\rX", errChunkEnd},
		{"bare LF for the last line", "0\r\n\n", errBareLF},
		{"bare CR for the last line", "0\r\n\rX", errBareCR},
		{"something else than a trailer", "0\r\nGET / HTTP/1.1\r\n\r\n", errNameSpace},
		{"space before a trailer's colon", "0\r\nX : 1\r\n\r\n", errNameSpace},
		{"folded trailer", "0\r\nX: 1\r\n 2\r\n\r\n", errFold},
		{"trailers over the limit", "0\r\nX: " + strings.Repeat("a", 2000) + "\r\n\r\n", errManyTrailers},
		{"too many trailers", "0\r\n" + strings.Repeat("X: a\r\n", 11) + "\r\n", errManyTrailers},
		{"an endless extension", "2;" + strings.Repeat("a", 20<<10), errChunkWaste},
		{"extensions without end", strings.Repeat("1;"+strings.Repeat("a", 100)+"\r\na\r\n", 200), errChunkWaste},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 1, 2, 7} {
				var b Body
				b.Reset(Chunked, -1, &Limits{Head: 1000, Fields: 10})
				_, _, err := readBody(&b, c.in, piece)
				if err != error(c.want) || b.Done() || b.EOF() == nil {
					t.Errorf("in pieces of %d: got %v, want %v", piece, err, c.want)
				}
			}
		})
	}
}

func TestLargeExtensionsAreFineWithLargeChunks(t *testing.T) {
	var b Body // chunks as the S3 protocol signs them
	b.Reset(Chunked, -1, &Limits{})
	chunk := "1000;chunk-signature=" + strings.Repeat("f", 64) + "\r\n" + strings.Repeat("x", 4096) + "\r\n"
	if _, _, err := readBody(&b, strings.Repeat(chunk, 1000), 1<<20); err != nil {
		t.Error(err)
	}
}

func TestOtherFramings(t *testing.T) {
	const in = "0123456789"
	for _, c := range []struct {
		name       string
		framing    Framing
		length     int64
		data, rest string
		done       bool
		eof        error
	}{
		{"none", None, 0, "", in, true, nil},
		{"a length of 0", Length, 0, "", in, true, nil},
		{"a length", Length, 4, "0123", "456789", true, nil},
		{"a length not reached", Length, 11, in, "", false, ErrTruncated},
		{"until close", UntilClose, -1, in, "", false, nil},
		{"chunked and nothing came", Chunked, -1, "", "", false, ErrTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 1, 3} {
				var b Body
				b.Reset(c.framing, c.length, &Limits{})
				src := in
				if c.framing == Chunked {
					src = ""
				}
				data, rest, err := readBody(&b, src, piece)
				if data != c.data || rest != c.rest || err != nil || b.Done() != c.done || b.EOF() != c.eof {
					t.Errorf("in pieces of %d: got %q, rest %q, %v, done %v, EOF %v", piece, data, rest, err, b.Done(), b.EOF())
				}
			}
		})
	}
}

func TestABodyKeepsLittleForTheNext(t *testing.T) {
	rest := strings.Repeat("x", 60_000)
	for name, c := range map[string]struct {
		body string
		most int
	}{
		"what is behind it is not copied": {"1\r\na\r\n0\r\n\r\n", 1 << 10},
		"large trailers are let go":       {"1\r\na\r\n0\r\nX: " + rest + "\r\n\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var b Body
			b.Reset(Chunked, -1, &Limits{})
			if _, got, err := readBody(&b, c.body+rest, len(c.body)+len(rest)); err != nil || got != rest {
				t.Fatalf("%d bytes are behind it, want %d; %v", len(got), len(rest), err)
			}
			b.Reset(Chunked, -1, &Limits{})
			if cap(b.buf) > c.most {
				t.Errorf("it keeps %d bytes", cap(b.buf))
			}
			for _, f := range b.trailers[:cap(b.trailers)] {
				if c.most == 0 && f.Value != "" {
					t.Error("it keeps a trailer")
				}
			}
		})
	}
}
