package h1

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// The fuzz tests hold the codec to one promise each: whatever pieces the bytes
// arrive in, the outcome is the same; and what was accepted and encoded anew
// reads as the same message.

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{typicalRequest, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\nPOST http://a/?b HTTP/1.0\r\nConnection: x, close\r\nX: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5\r\n", "GET /\r\n", "A: \x00", "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost : a\r\n b\r\n\n"} {
		f.Add([]byte(seed), uint8(3))
	}
	limits := Limits{Head: 300, URI: 80, Fields: 8}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		var whole, cut Request
		n, err := whole.Parse(in, &limits)
		m, cutErr := inPieces(in, piece, func(b []byte) (int, error) { return cut.Parse(b, &limits) })
		if n != m || err != cutErr {
			t.Fatalf("whole: %d, %v; in pieces: %d, %v", n, err, m, cutErr)
		}
		if got, want := describeRequest(&cut), describeRequest(&whole); n > 0 && got != want {
			t.Fatalf("whole:\n%s\nin pieces:\n%s", want, got)
		}
		if n > 0 {
			requestAgain(t, &whole)
		}
	})
}

// inPieces calls parse with ever more of in, moved each time.
func inPieces(in []byte, piece uint8, parse func([]byte) (int, error)) (n int, err error) {
	var last []byte
	for i := 0; ; i = min(len(in), i+1+int(piece)) {
		b := slices.Clone(in[:i])
		for j := range last {
			last[j] = 'X'
		}
		last = b
		if n, err = parse(b); n != 0 || err != nil || i == len(in) {
			return n, err
		}
	}
}

func describeRequest(r *Request) string {
	return fmt.Sprintf("%q %q %q %q %q %q %d %q %d %d %v %v %q %d", r.Method, r.Target, r.Path, r.RawQuery, r.Scheme, r.Host,
		r.Minor, r.Fields, r.Framing, r.Length, r.Close, r.Expect100, r.Upgrade, r.Dropped)
}

func requestAgain(t *testing.T, r *Request) {
	host := r.Host
	if host == "" {
		host = "none"
	}
	wire := AppendRequest(nil, r.Method, r.Target, host, r.Fields, Out{Framing: r.Framing, Length: r.Length, Upgrade: r.Upgrade})
	var again Request
	n, err := again.Parse(append(wire, "POISON"...), &Limits{})
	if n != len(wire) || err != nil {
		t.Fatalf("our own request: %d of %d, %v\n%q", n, len(wire), err, wire)
	}
	if again.Method != r.Method || again.Target != r.Target || again.Framing != r.Framing || again.Length != r.Length ||
		again.Upgrade != r.Upgrade || !slices.Equal(again.Fields, r.Fields) {
		t.Fatalf("read as\n%s\nthen as\n%s", describeRequest(r), describeRequest(&again))
	}
}

func FuzzResponse(f *testing.F) {
	for _, seed := range []string{typicalResponse, "HTTP/1.1 200\r\n\r\n", "HTTP/1.0 204 x\r\nContent-Length: 5, 5\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nX : 1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/2 200\r\n\r\n"} {
		f.Add([]byte(seed), uint8(3), false)
	}
	limits := Limits{Head: 300, Fields: 8}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		var whole, cut Response
		n, err := whole.Parse(in, method, &limits)
		m, cutErr := inPieces(in, piece, func(b []byte) (int, error) { return cut.Parse(b, method, &limits) })
		if n != m || err != cutErr {
			t.Fatalf("whole: %d, %v; in pieces: %d, %v", n, err, m, cutErr)
		}
		if got, want := describeResponse(&cut), describeResponse(&whole); n > 0 && got != want {
			t.Fatalf("whole:\n%s\nin pieces:\n%s", want, got)
		}
		if n > 0 {
			responseAgain(t, &whole, method)
		}
	})
}

func describeResponse(r *Response) string {
	return fmt.Sprintf("%d %q %d %q %d %d %v %q", r.Status, r.Reason, r.Minor, r.Fields, r.Framing, r.Length, r.Close, r.Upgrade)
}

func responseAgain(t *testing.T, r *Response, method string) {
	out := Out{Framing: r.Framing, Length: r.Length, Upgrade: r.Upgrade}
	wire := AppendResponse(nil, r.Status, r.Reason, r.Fields, out)
	var again Response
	n, err := again.Parse(append(wire, "POISON"...), method, &Limits{})
	if n != len(wire) || err != nil {
		t.Fatalf("our own response: %d of %d, %v\n%q", n, len(wire), err, wire)
	}
	if again.Status != r.Status || again.Framing != r.Framing || again.Length != r.Length || !slices.Equal(again.Fields, r.Fields) {
		t.Fatalf("read as\n%s\nthen as\n%s", describeResponse(r), describeResponse(&again))
	}
}

func FuzzChunked(f *testing.F) {
	for _, seed := range []string{"5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nX: 1\r\nY: 2\r\n\r\nPOISON", "0x2\r\nab", "ffffffffffffffff\r\n", "2\r\nab\n0\r\n\r\n"} {
		f.Add([]byte(seed), uint8(3))
	}
	limits := Limits{Head: 100, Fields: 4}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		var whole, cut Body
		whole.Reset(Chunked, -1, &limits)
		cut.Reset(Chunked, -1, &limits)
		data, rest, err := readBody(&whole, string(in), len(in)+1)
		cutData, cutRest, cutErr := readBody(&cut, string(in), 1+int(piece))
		if data != cutData || err != cutErr || whole.Done() != cut.Done() || err == nil && rest != cutRest ||
			!slices.Equal(whole.Trailers(), cut.Trailers()) {
			t.Fatalf("whole: %q, rest %q, %v, %q; in pieces: %q, rest %q, %v, %q",
				data, rest, err, whole.Trailers(), cutData, cutRest, cutErr, cut.Trailers())
		}
		if !whole.Done() {
			return
		}
		wire := AppendLastChunk(AppendChunk(nil, []byte(data)), whole.Trailers())
		var again Body
		again.Reset(Chunked, -1, &Limits{})
		read, rest, err := readBody(&again, string(wire)+"POISON", 1000)
		if read != data || rest != "POISON" || err != nil || !slices.Equal(again.Trailers(), whole.Trailers()) {
			t.Fatalf("%q reads back as %q, rest %q, %v", data, read, rest, err)
		}
	})
}

// FuzzTextEnd compares the eight-bytes-at-a-time scan with the plain one.
func FuzzTextEnd(f *testing.F) {
	f.Add([]byte("0123456789\tabc\xff\x80\x7e\x7f"), uint8(0))
	f.Add(bytes.Repeat([]byte{0xff, 0x7e}, 9), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, from uint8) {
		i := min(int(from), len(in))
		want := i
		for want < len(in) && class[in[want]]&inText != 0 {
			want++
		}
		if got := textEnd(in, i); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	})
}
