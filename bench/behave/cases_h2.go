package main

import (
	"slices"
	"strings"

	"golang.org/x/net/http2"

	"github.com/cirque-lb/lb/bench/rig"
)

// ask are the fields of a plain request, and what is added to it.
func ask(more ...string) []string { return askAs("GET", more...) }

func askAs(method string, more ...string) []string {
	return append([]string{":method", method, ":scheme", "http", ":path", "/x", ":authority", "a"}, more...)
}

// without is a plain request that lacks a pseudo-field.
func without(name string, more ...string) []string {
	f := ask()
	i := slices.Index(f, name)
	return append(slices.Delete(f, i, i+2), more...)
}

// with is a plain request with another value of a pseudo-field.
func with(name, value string, more ...string) []string {
	f := ask(more...)
	f[slices.Index(f, name)+1] = value
	return f
}

var (
	malformed = []string{"RST PROTOCOL_ERROR, up 0", "400, up 0", "GOAWAY PROTOCOL_ERROR, up 0", "close, up 0", "4*, up 0"}
	is400     = []string{"400, up 0", "RST PROTOCOL_ERROR, up 0", "GOAWAY PROTOCOL_ERROR, up 0", "close, up 0"}
)

// h2Cases are section D: what a client may say by HTTP/2.
func h2Cases() []behaviour {
	out := append(h2Refusals(), h2Passes()...)
	for i := range out {
		out[i].name = "h2: " + out[i].name
	}
	return out
}

func h2Refusals() []behaviour {
	long := strings.Repeat("a", 70<<10)
	return []behaviour{
		{name: "upper-case name", do: refuses(ask("X-A", "1")), want: malformed},
		{name: "two :path", do: refuses(ask(":path", "/y")), want: malformed},
		{name: "no :scheme", do: refuses(without(":scheme")), want: malformed},
		{name: "no :method", do: refuses(without(":method")), want: malformed},
		{name: "empty :path", do: refuses(with(":path", "")), want: malformed},
		{name: "pseudo-field after a field", do: refuses(without(":path", "x", "1", ":path", "/x")), want: malformed},
		{name: "unknown pseudo-field", do: refuses(append([]string{":x", "1"}, ask()...)), want: malformed},
		{name: "connection", do: refuses(ask("connection", "close")), want: malformed},
		{name: "upgrade", do: refuses(ask("upgrade", "websocket")), want: malformed},
		{name: "te: gzip", do: refuses(ask("te", "gzip")), want: malformed},
		{name: "transfer-encoding and DATA", do: refuses(askAs("POST", "transfer-encoding", "chunked"), "0\r\n\r\n"), want: malformed},
		{name: "space in :path", do: refuses(with(":path", "/x HTTP/1.1")), want: append(is400, "4*, up 0")},
		{name: "CR LF in :path", do: refuses(with(":path", "/x\r\nx: y")), want: malformed},
		{name: "CR LF in a value", do: refuses(ask("x", "1\r\ny: 2")), want: malformed},
		{name: "CR LF in :method", do: refuses(with(":method", "GET /y HTTP/1.1\r\nx: y")), want: malformed},
		{name: "NUL in a value", do: refuses(ask("x", "1\x002")), want: malformed},
		{name: "space in a name", do: refuses(ask("x y", "1")), want: malformed},
		{name: "colon in a name", do: refuses(ask("x:y", "1")), want: malformed},
		{name: "host that is not :authority", do: refuses(ask("host", "evil")), want: is400},
		{name: "neither :authority nor host", do: refuses(without(":authority")), want: is400},
		{name: "CL 5 and 2 bytes", origin: readsHeadFirst, do: shortH2, want: []string{"RST PROTOCOL_ERROR, up 1 cut", "RST PROTOCOL_ERROR, up 0", "400, up 0", "GOAWAY PROTOCOL_ERROR, up 0", "*, up 1 cut"}},
		{name: "CL 2 and 5 bytes", do: refuses(askAs("POST", "content-length", "2"), "hello"), want: []string{"RST PROTOCOL_ERROR, up *", "400, up *", "GOAWAY PROTOCOL_ERROR, up *"}},
		{name: "two CL that differ", do: refuses(askAs("POST", "content-length", "2", "content-length", "3"), "ab"), want: malformed},
		{name: "header list of 70 KB", do: refuses(ask("x", long)), want: []string{"431, up 0", "RST *, up 0", "GOAWAY *, up 0", "400, up 0"}},
		{name: "300 fields", do: refuses(ask(slices.Repeat([]string{"x", "1"}, 300)...)), want: []string{"431, up 0", "RST *, up 0", "GOAWAY *, up 0", "400, up 0"}},
		{name: "SETTINGS_MAX_HEADER_LIST_SIZE", do: announces(http2.SettingMaxHeaderListSize), want: []string{"announced", "no"}},
		{name: "HPACK bomb of 12 MB", do: bomb, want: []string{"431, up 0", "RST *, up 0", "GOAWAY *, up 0", "400, up 0", "close, up 0"}},
		{name: "CONTINUATION, 500 of 16 KB", do: flood(500, continuations(16384)), want: calmSoon},
		{name: "CONTINUATION, 2 000 empty", do: flood(2000, continuations(0)), want: calmSoon},
		{name: "rapid reset, 1 000", do: flood(1000, rapidReset), want: calm},
		{name: "MadeYouReset by an overflowing window, 1 000", do: flood(1000, makeReset(1<<31-1)), want: calm},
		{name: "MadeYouReset by a window of 0, 1 000", do: flood(1000, makeReset(0)), want: calm},
		{name: "300 streams at once", origin: thinking, do: manyStreams, want: []string{"100 taken, others REFUSED_STREAM", "128 taken, others REFUSED_STREAM", "1* taken, others REFUSED_STREAM", "2* taken, others REFUSED_STREAM"}},
	}
}

// calm is how a flood is to end.
var (
	calm     = []string{"GOAWAY ENHANCE_YOUR_CALM", "GOAWAY *", "close"}
	calmSoon = []string{"GOAWAY ENHANCE_YOUR_CALM", "GOAWAY *", "close"}
)

func h2Passes() []behaviour {
	body := func(a *rig.Answer) string { return a.Body }
	return []behaviour{
		{name: "cookie crumbs", do: upH2(ask("cookie", "a=1", "cookie", "b=2"), func(r request) string { return r.fields.get("cookie") }), want: []string{"200 a=1; b=2"}},
		{name: "host that is :authority", do: upH2(ask("host", "a"), func(r request) string { return r.fields.get("host") }), want: []string{"200 a"}},
		{name: "te: trailers", do: upH2(ask("te", "trailers"), func(r request) string { return "" }), want: []string{"200 "}},
		{name: "request trailers", do: requestTrailers, want: []string{"200 ab, trailer 1", "200 ab, trailer "}},
		{name: "path and query are kept byte for byte", do: upH2(with(":path", "/a/../x/%2e//y;a=b?q=1;r=2"), func(r request) string { return r.line }),
			want: []string{"200 GET /a/../x/%2e//y;a=b?q=1;r=2 HTTP/1.1"}},
		{name: "103 then 200", origin: saying("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), do: downH2(ask(), func(a *rig.Answer) string {
			if len(a.Infos) == 0 {
				return "no 103"
			}
			return a.Infos[0].Get(":status") + " " + a.Infos[0].Get("link") + " " + a.Body
		}), want: []string{"200 103 </a> ok"}},
		{name: "response trailers", origin: saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"),
			do: downH2(ask(), func(a *rig.Answer) string { return a.Body + ", trailer " + a.Trailer.Get("x-t") }), want: []string{"200 ok, trailer 1"}},
		{name: "a truncated body with CL", origin: dying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), do: downH2(ask(), body), want: []string{"200 cut RST INTERNAL_ERROR hello", "200 cut *", "502*", "RST *"}},
		{name: "a truncated chunked body", origin: dying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), do: downH2(ask(), body), want: []string{"200 cut RST INTERNAL_ERROR hello", "200 cut *", "502*", "RST *"}},
		{name: "hop-by-hop fields of a response", origin: saying("HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
			do: downH2(ask(), func(a *rig.Answer) string {
				return a.Head.Get("connection") + a.Head.Get("x-secret") + a.Head.Get("keep-alive") + a.Head.Get("proxy-connection") + a.Head.Get("transfer-encoding")
			}), want: []string{"200 "}},
		{name: "an early 413", origin: early, do: early413H2, want: []string{"413 END, then RST NO_ERROR", "413 END, then *"}},
		{name: "the client resets while the origin thinks", origin: thinking, do: cancelH2, want: []string{"origin's connection closed soon"}},
		{name: "WebSocket by extended CONNECT", origin: websocket, do: tunnelH2, want: []string{"200 hello, ping: pong", "not announced"}},
		{name: "GOAWAY of a backend spares what it did not take", only: true, do: viaH2(goawayOnce), want: []string{"200 after 2 attempts"}},
		{name: "REFUSED_STREAM of a backend is tried again", only: true, do: viaH2(refuseOnce), want: []string{"200 after 2 attempts"}},
		// The proxy is gone when this one ends.
		{name: "GOAWAY in two steps when the proxy drains", origin: thinksThenAnswers, do: drains,
			want: []string{"GOAWAY 2147483647, GOAWAY last, 200", "GOAWAY last, 200"}},
	}
}
