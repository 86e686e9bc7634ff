package h1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResponseRead(t *testing.T) {
	for _, c := range []struct {
		name, method, in string
		want             Response
	}{
		{"with a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: Length, Length: 5, Fields: []Field{{"Server", "x"}}}},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: Chunked, Length: -1}},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: UntilClose, Length: -1, Close: true}},
		{"empty", "POST", "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", Response{
			Status: 201, Reason: "Created", Minor: 1, Framing: Length, Length: 0}},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Response{
			Status: 200, Reason: "OK", Framing: Length, Length: 5, Close: true}},
		{"HTTP/1.0 with keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", Response{
			Status: 200, Reason: "OK", Framing: Length, Length: 5}},
		{"Connection: close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: Length, Length: 5, Close: true}},
		{"no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", Response{
			Status: 200, Minor: 1, Framing: Length, Length: 5}},
		{"no space before no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", Response{
			Status: 200, Minor: 1, Framing: Length, Length: 5}},
		{"a reason in UTF-8", "GET", "HTTP/1.1 200 \xc3\xa9t\xc3\xa9 ok\r\nContent-Length: 5\r\n\r\n", Response{
			Status: 200, Reason: "\xc3\xa9t\xc3\xa9 ok", Minor: 1, Framing: Length, Length: 5}},
		// RFC 9112 section 6.3, rules 1, 3, 5.
		{"HEAD with a length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Length: 1234}},
		{"HEAD without a length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Length: -1}},
		{"HEAD, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Length: -1}},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n", Response{
			Status: 304, Reason: "Not Modified", Minor: 1, Length: 50}},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", Response{
			Status: 204, Reason: "No Content", Minor: 1, Length: -1}},
		{"204 with a length of 0", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Response{
			Status: 204, Reason: "No Content", Minor: 1, Length: -1}},
		{"204 with a length of 5", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Response{
			Status: 204, Reason: "No Content", Minor: 1, Length: -1, Close: true}},
		{"204, chunked", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Response{
			Status: 204, Reason: "No Content", Minor: 1, Length: -1, Close: true}},
		{"TE + CL: TE wins, the connection does not", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: Chunked, Length: -1, Close: true}},
		{"TE in HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", Response{
			Status: 200, Reason: "OK", Framing: Chunked, Length: -1, Close: true}},
		{"CL twice equal", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5, 5\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: Length, Length: 5}},
		{"100", "PUT", "HTTP/1.1 100 Continue\r\n\r\n", Response{
			Status: 100, Reason: "Continue", Minor: 1, Length: -1}},
		{"103 with Link", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", Response{
			Status: 103, Reason: "Early Hints", Minor: 1, Length: -1, Fields: []Field{{"Link", "</a>"}}}},
		{"101", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", Response{
			Status: 101, Reason: "Switching Protocols", Minor: 1, Length: -1, Upgrade: "websocket"}},
		{"hop-by-hop fields are left out", "GET", "HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n" +
			"Proxy-Authenticate: Basic\r\nContent-Length: 0\r\nX_Kept: 1\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: Length, Fields: []Field{{"X_Kept", "1"}}}},
		{"blanks before the colon are removed", "GET", "HTTP/1.1 200 OK\r\nContent-Length \t: 5\r\nServer : x\r\n\r\n", Response{
			Status: 200, Reason: "OK", Minor: 1, Framing: Length, Length: 5, Fields: []Field{{"Server", "x"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 1, 7} {
				r := Response{Fields: []Field{}}
				n, err := responseInPieces(&r, c.in, c.method, piece)
				if n != len(c.in) || err != nil {
					t.Fatalf("in pieces of %d: got %d, %v; want %d", piece, n, err, len(c.in))
				}
				if c.want.Fields == nil {
					c.want.Fields = []Field{}
				}
				if diff := cmp.Diff(c.want, r, ignoreState); diff != "" {
					t.Errorf("in pieces of %d: want -, got +\n%s", piece, diff)
				}
			}
		})
	}
}

func responseInPieces(r *Response, in, method string, piece int) (n int, err error) {
	var buf []byte
	for i := 0; ; i = min(len(in), i+piece) {
		old := buf
		buf = append(make([]byte, 0, i), in[:i]...)
		clear(old)
		n, err = r.Parse(buf, method, &Limits{})
		if n != 0 || err != nil || i == len(in) {
			return n, err
		}
	}
}

func TestResponseRefused(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     *Error
	}{
		{"garbage", "garbage\r\n\r\n", errStatusLine},
		{"garbage, long", "garbage garbage garbage\r\n\r\n", errStatusLine},
		{"a binary protocol", "\x00\x00\x12\x04\x00\x00\x00\x00\x00", errControl},
		{"HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n", errVersion},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", errStatusLine},
		{"ICY", "ICY 200 OK\r\n\r\nxx", errStatusLine},
		{"a leading empty line", "\r\nHTTP/1.1 200 OK\r\n\r\n", errStatusLine},
		{"status of two digits", "HTTP/1.1 20 OK\r\n\r\n", errStatusLine},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", errStatusLine},
		{"status below 100", "HTTP/1.1 099 OK\r\n\r\n", errStatusLine},
		{"status with a sign", "HTTP/1.1 +20 OK\r\n\r\n", errStatusLine},
		{"NUL in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", errControl},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 5\n\n", errBareLF},
		{"obs-fold", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", errFold},
		{"NUL in a value", "HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", errControl},
		{"bare CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", errBareCR},
		{"blanks for a name", "HTTP/1.1 200 OK\r\n : a\r\n\r\n", errFold},
		{"CL twice differing", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", errTwoLengths},
		{"CL: 5, 6", "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", errTwoLengths},
		{"CL: +5", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", errLength},
		{"CL: -5", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", errLength},
		{"CL empty", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", errLength},
		{"TE gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", errNotChunked},
		{"TE gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", errCoding},
		{"TE twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", errNotChunked},
		{"100 with a body", "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", errInterimBody},
		{"103, chunked", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n", errInterimBody},
		{"header of 100 KB", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", errHeadTooLarge},
		{"300 fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: a\r\n", 300) + "\r\n", errManyFields},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, max(1, len(c.in)/5000), 7 + len(c.in)/1000} {
				var r Response
				n, err := responseInPieces(&r, c.in, "GET", piece)
				if n != 0 || err != error(c.want) {
					t.Errorf("in pieces of %d: got %d, %v; want %v", piece, n, err, c.want)
				}
			}
		})
	}
}

func TestInterimResponsesComeBeforeTheFinalOne(t *testing.T) {
	in := []byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	var r Response
	var got []int
	for len(in) > 0 {
		n, err := r.Parse(in, "GET", &Limits{})
		if n == 0 {
			t.Fatal(err)
		}
		got = append(got, r.Status)
		if r.Interim() != (len(in) > n) {
			t.Errorf("status %d: Interim is %v", r.Status, r.Interim())
		}
		in = in[n:]
	}
	if diff := cmp.Diff([]int{100, 103, 200}, got); diff != "" {
		t.Error(diff)
	}
}
