package main

import (
	"fmt"
	"strings"
)

const get = "GET /x HTTP/1.1\r\nHost: a\r\n"

// refused are the outcomes of a request that must not reach the origin.
var (
	refused    = []string{"400 close, up 0", "- close, up 0"}
	onlyStatus = func(s string) []string { return []string{s + " close, up 0"} }
)

// requestCases are section A: what a client may send.
func requestCases() []behaviour {
	return append(refusals(), passes()...)
}

func refusals() []behaviour {
	post := "POST /x HTTP/1.1\r\nHost: a\r\n"
	chunked := post + "Transfer-Encoding: chunked\r\n\r\n"
	long := strings.Repeat("a", 70<<10)
	either := []string{"400 close, up 0", "501 close, up 0", "- close, up 0"}
	// With a body that turns bad the origin may have got a part of it.
	cut := []string{"400 close, up *", "- close, up *"}
	return []behaviour{
		{name: "no Host", do: raw("GET /x HTTP/1.1\r\n\r\n"), want: refused},
		{name: "two different Host", do: raw(get + "Host: b\r\n\r\n"), want: refused},
		{name: "absolute-form of another host", do: raw("GET http://evil/x HTTP/1.1\r\nHost: a\r\n\r\n"), want: append(refused, "200 open, up 1")},
		{name: "HTTP/0.9", do: raw("GET /x\r\n"), want: refused},
		{name: "another preface than HTTP/2's", do: raw("INVALID CONNECTION PREFACE\r\n\r\n"), want: []string{"- close, up 0", "400 close, up 0"}},
		{name: "HTTP/2.0 in HTTP/1", do: raw("GET /x HTTP/2.0\r\nHost: a\r\n\r\n"), want: append(onlyStatus("505"), "400 close, up 0")},
		{name: "CL + TE", do: raw(post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), want: refused},
		{name: "CL twice, equal", do: raw(post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab"), want: append(refused, "200 open, up 1")},
		{name: "CL: 2, 2", do: raw(post + "Content-Length: 2, 2\r\n\r\nab"), want: append(refused, "200 open, up 1")},
		{name: "CL twice, differing", do: raw(post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"), want: refused},
		{name: "CL: +2", do: raw(post + "Content-Length: +2\r\n\r\nab"), want: refused},
		{name: "CL empty", do: raw(post + "Content-Length:\r\n\r\n"), want: refused},
		{name: "CL: 0x2", do: raw(post + "Content-Length: 0x2\r\n\r\nab"), want: refused},
		{name: "CL: -1", do: raw(post + "Content-Length: -1\r\n\r\n"), want: refused},
		{name: "CL over 64 bits", do: raw(post + "Content-Length: 18446744073709551617\r\n\r\na"), want: refused},
		{name: "space before the colon of CL", do: raw(post + "Content-Length : 2\r\n\r\nab"), want: refused},
		{name: "TE: xchunked", do: raw(post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), want: either},
		{name: "TE: chunked, identity", do: raw(post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), want: either},
		{name: "TE: chunked, twice", do: raw(post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), want: either},
		{name: "TE with VT before chunked", do: raw(post + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n"), want: either},
		{name: "TE: gzip, chunked", do: raw(post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), want: append(onlyStatus("501"), "400 close, up 0")},
		{name: "TE in HTTP/1.0", do: raw("POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), want: refused},
		{name: "LF inside a chunk extension", do: raw(chunked + "2;\nxx\r\n0\r\n\r\n"), want: cut},
		{name: "chunk size 0x2", do: raw(chunked + "0x2\r\nab\r\n0\r\n\r\n"), want: cut},
		{name: "chunk size of 17 hex digits", do: raw(chunked + "10000000000000002\r\nab\r\n0\r\n\r\n"), want: cut},
		{name: "no CRLF behind a chunk", do: raw(chunked + "2\r\nabX0\r\n\r\n"), want: cut},
		{name: "bare LF line endings", do: raw("GET /x HTTP/1.1\nHost: a\n\n"), want: refused},
		{name: "bare CR in a value", do: raw(get + "X: a\rb\r\n\r\n"), want: refused},
		{name: "NUL in a value", do: raw(get + "X: a\x00b\r\n\r\n"), want: refused},
		{name: "obs-fold", do: raw(get + "X: a\r\n b\r\n\r\n"), want: refused},
		{name: "empty field name", do: raw(get + ": a\r\n\r\n"), want: refused},
		{name: "space before the first field", do: raw("GET /x HTTP/1.1\r\n Host: a\r\n\r\n"), want: refused},
		{name: "space in the URI", do: raw("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), want: refused},
		{name: "%zz in the path", do: raw("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"), want: append(refused, "200 open, up 1")},
		{name: "CONNECT", do: raw("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), want: []string{"405 close, up 0", "501 close, up 0", "400 close, up 0"}},
		{name: "TRACE", do: raw("TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n"), want: []string{"405 close, up 0", "405 open, up 0"}},
		{name: "field of 70 KB", do: raw(get + "X: " + long + "\r\n\r\n"), want: append(onlyStatus("431"), "400 close, up 0")},
		{name: "URI of 70 KB", do: raw("GET /" + long + " HTTP/1.1\r\nHost: a\r\n\r\n"), want: append(onlyStatus("414"), "400 close, up 0")},
		{name: "300 fields", do: raw(get + strings.Repeat("X: a\r\n", 300) + "\r\n"), want: append(onlyStatus("431"), "400 close, up 0")},
		{name: "unknown Expect", do: raw(post + "Expect: 200-ok\r\nContent-Length: 2\r\n\r\nab"), want: []string{"417 close, up 0"}},
		{name: "a head that never ends", slow: true, do: dribble, want: []string{"408 close at a total deadline", "- close at a total deadline"}},
		{name: "body shorter than CL, then FIN", origin: readsHeadFirst, do: shortBody,
			want: []string{"- close, up 1 cut", "400 close, up 1 cut", "- close, up 0", "400 close, up 0"}},
	}
}

func passes() []behaviour {
	kept := "/a/../x/%2e%2e/y//x%2Fy;a=b?q=1;r=2"
	line := func(r request) string { return r.line }
	return []behaviour{
		{name: "one leading CRLF", do: raw("\r\n" + get + "\r\n"), want: []string{"200 open, up 1"}},
		{name: "HTTP/1.0", do: raw("GET /x HTTP/1.0\r\nHost: a\r\n\r\n"), want: []string{"200 close, up 1"}},
		{name: "HTTP/1.0 with keep-alive", do: raw("GET /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"), want: []string{"200 open, up 1"}},
		{name: "path and query are kept byte for byte", do: up("GET "+kept+" HTTP/1.1\r\nHost: a\r\n\r\n", line), want: []string{"200 GET " + kept + " HTTP/1.1"}},
		{name: "absolute-form of the same host", do: up("GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n", func(r request) string { return r.line + " " + r.fields.get("host") }),
			want: []string{"200 GET /x?y HTTP/1.1 a"}},
		{name: "a chunk extension is not forwarded", do: up("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\n\r\n",
			func(r request) string { return r.body }), want: []string{"200 ab"}},
		{name: "request trailers", do: up("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n",
			func(r request) string {
				return "trailer " + r.trailer.get("x-t") + ", Trailer " + r.fields.get("trailer")
			}),
			want: []string{"200 trailer 1, Trailer X-T", "200 trailer 1, Trailer ", "200 trailer , Trailer "}},
		{name: "names with an underscore", do: up(get+"X_Forwarded_For: 1\r\n\r\n", func(r request) string { return "got " + r.fields.get("x_forwarded_for") }),
			want: []string{"200 got ", "400, up 0"}},
		{name: "GET with a body", do: up(get+"Content-Length: 2\r\n\r\nab", func(r request) string { return r.framing + " " + r.body }), want: []string{"200 length ab"}},
		{name: "pipelined requests", do: pipelined, want: []string{"/1 /2 /3"}},
		{name: "hop-by-hop fields stay behind", do: up(get+"Connection: close, X-Real\r\nX-Real: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\n\r\n",
			func(r request) string {
				return fmt.Sprint(r.fields.get("x-real"), r.fields.get("keep-alive"), r.fields.get("proxy-connection"), r.fields.get("te"))
			}), want: []string{"200 ", "200 trailers"}},
		{name: "protected fields cannot be nominated", do: up(get+"X-Forwarded-For: 6.6.6.6\r\nCookie: c\r\nConnection: X-Forwarded-For, Host, Cookie\r\n\r\n",
			func(r request) string {
				return r.fields.get("host") + r.fields.get("cookie") + " " + r.fields.get("x-forwarded-for")
			}),
			want: []string{"200 ac 127.0.0.1", "200 ac *"}},
		{name: "X-Forwarded-For is rebuilt", do: up(get+"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\r\n",
			func(r request) string { return r.fields.get("x-forwarded-for") }), want: []string{"200 127.0.0.1", "200 *127.0.0.1"}},
	}
}

func pipelined(w *world) string {
	return w.client(func(c *conn) string {
		var b strings.Builder
		for i := 1; i <= 3; i++ {
			fmt.Fprintf(&b, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		}
		c.say(b.String())
		var got []string
		for range 3 {
			m := c.response("GET")
			_, path, _ := strings.Cut(m.body, " ")
			path, _, _ = strings.Cut(path, " ")
			got = append(got, path)
		}
		return strings.Join(got, " ")
	})
}
