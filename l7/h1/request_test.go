package h1

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// host ends a request head that breaks no rule by itself.
const host = "Host: a\r\n\r\n"

func TestRequestRefused(t *testing.T) {
	long := strings.Repeat("a", 70<<10)
	for _, c := range []struct {
		name, in string
		want     *Error
	}{
		// Request line: RFC 9112 section 3.
		{"HTTP/0.9", "GET /x\r\n", errNoVersion},
		{"HTTP/0.9 with fields", "GET /x\r\nHost: a\r\n\r\n", errNoVersion},
		{"HTTP/2.0", "GET /x HTTP/2.0\r\n" + host, errVersion},
		{"HTTP/0.9 by name", "GET /x HTTP/0.9\r\n" + host, errVersion},
		{"HTTP/3.1", "GET /x HTTP/3.1\r\n" + host, errVersion},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", errNotHTTP},
		{"another preface", "INVALID CONNECTION PREFACE\r\n\r\n", errNotHTTP},
		{"a PROXY header", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n" + host, errProxyHeader},
		{"another protocol", "MAIL FROM:<a@b> SIZE=1\r\n", errNotHTTP},
		{"a path and another protocol's version", "GET /x RTSP/1.0\r\n" + host, errVersionForm},
		{"a URI and another protocol's version", "OPTIONS sip://a SIP/2.0\r\n" + host, errVersionForm},
		{"lower-case version", "GET /x http/1.1\r\n" + host, errVersionForm},
		{"two digits of version", "GET /x HTTP/1.11\r\n" + host, errVersionForm},
		{"version without minor", "GET /x HTTP/1\r\n" + host, errVersionForm},
		{"space in URI", "GET /a b HTTP/1.1\r\n" + host, errVersionForm},
		{"space behind the version", "GET /x HTTP/1.1 \r\n" + host, errVersionForm},
		{"two spaces before the target", "GET  /x HTTP/1.1\r\n" + host, errNoTarget},
		{"two spaces before the version", "GET /x  HTTP/1.1\r\n" + host, errVersionForm},
		{"tab for a space", "GET\t/x HTTP/1.1\r\n" + host, errMethod},
		{"no method", " /x HTTP/1.1\r\n" + host, errMethod},
		{"method is no token", "G@T /x HTTP/1.1\r\n" + host, errMethod},
		{"endless method", strings.Repeat("M", 65), errMethod},
		{"no target", "GET HTTP/1.1\r\n" + host, errNoVersion},
		{"two leading empty lines", "\r\n\r\nGET / HTTP/1.1\r\n" + host, errEmptyLines},
		{"leading bare LF", "\nGET / HTTP/1.1\r\n" + host, errBareLF},
		{"leading bare CR", "\rGET / HTTP/1.1\r\n" + host, errBareCR},
		{"a TLS handshake", "\x16\x03\x01\x02\x00\x01\x00", errControl},
		// Target: section 3.2.
		{"relative target", "GET x HTTP/1.1\r\n" + host, errTarget},
		{"another scheme", "GET ftp://a/ HTTP/1.1\r\n" + host, errTarget},
		{"asterisk of GET", "GET * HTTP/1.1\r\n" + host, errTarget},
		{"authority form", "GET a:443 HTTP/1.1\r\n" + host, errTarget},
		{"absolute form of another host", "GET http://evil/x HTTP/1.1\r\nHost: a\r\n\r\n", errHostDiffers},
		{"absolute form of another port", "GET http://a:81/x HTTP/1.1\r\nHost: a\r\n\r\n", errHostDiffers},
		{"absolute form without Host", "GET http://a/x HTTP/1.1\r\n\r\n", errNoHost},
		{"absolute form with user", "GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
		{"absolute form without authority", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
		{"fragment", "GET /x#y HTTP/1.1\r\n" + host, errTargetByte},
		{"high byte in URI", "GET /\xc3\xa9 HTTP/1.1\r\n" + host, errTargetByte},
		{"control byte in URI", "GET /\x01 HTTP/1.1\r\n" + host, errControl},
		{"DEL in URI", "GET /\x7f HTTP/1.1\r\n" + host, errControl},
		{"NUL in query", "GET /?\x00 HTTP/1.1\r\n" + host, errControl},
		{"%zz", "GET /%zz HTTP/1.1\r\n" + host, errEscape},
		{"% at the end", "GET /a% HTTP/1.1\r\n" + host, errEscape},
		{"%4 at the end", "GET /a%4 HTTP/1.1\r\n" + host, errEscape},
		{"CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", errMethodHere},
		{"TRACE", "TRACE /x HTTP/1.1\r\n" + host, errMethodHere},
		{"URI of 70 KB", "GET /" + long + " HTTP/1.1\r\n" + host, errURITooLong},
		{"endless URI", "GET /" + long, errURITooLong},
		// Host: section 3.2.
		{"no Host", "GET /x HTTP/1.1\r\n\r\n", errNoHost},
		{"two Hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", errTwoHosts},
		{"two equal Hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", errTwoHosts},
		{"two Hosts in HTTP/1.0", "GET /x HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", errTwoHosts},
		{"empty Host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n", errHost},
		{"Host with a path", "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", errHost},
		{"Host with a user", "GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n", errHost},
		{"Host with a space", "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", errHost},
		{"Host with a comma", "GET /x HTTP/1.1\r\nHost: a,b\r\n\r\n", errHost},
		// Framing: section 6.
		{"CL + TE", "POST /x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n" + host, errLengthAndTE},
		{"TE + CL", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n" + host, errLengthAndTE},
		{"CL twice equal", "POST /x HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n" + host, errTwoLengths},
		{"CL twice differing", "POST /x HTTP/1.1\r\nContent-Length: 2\r\ncontent-length: 3\r\n" + host, errTwoLengths},
		{"CL: 2, 2", "POST /x HTTP/1.1\r\nContent-Length: 2, 2\r\n" + host, errLength},
		{"CL: +2", "POST /x HTTP/1.1\r\nContent-Length: +2\r\n" + host, errLength},
		{"CL: -1", "POST /x HTTP/1.1\r\nContent-Length: -1\r\n" + host, errLength},
		{"CL: 0x2", "POST /x HTTP/1.1\r\nContent-Length: 0x2\r\n" + host, errLength},
		{"CL: 2.0", "POST /x HTTP/1.1\r\nContent-Length: 2.0\r\n" + host, errLength},
		{"CL: 1 2", "POST /x HTTP/1.1\r\nContent-Length: 1 2\r\n" + host, errLength},
		{"CL empty", "POST /x HTTP/1.1\r\nContent-Length:\r\n" + host, errLength},
		{"CL over 64 bits", "POST /x HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n" + host, errLength},
		{"CL of 63 bits and one", "POST /x HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n" + host, errLength},
		{"CL in Arabic digits", "POST /x HTTP/1.1\r\nContent-Length: \xd9\xa2\r\n" + host, errLength},
		{"space before the colon", "POST /x HTTP/1.1\r\nContent-Length : 2\r\n" + host, errNameSpace},
		{"tab before the colon", "POST /x HTTP/1.1\r\nTransfer-Encoding\t: chunked\r\n" + host, errNameSpace},
		{"TE xchunked", "POST /x HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n" + host, errNotChunked},
		{"TE chunked, identity", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n" + host, errNotChunked},
		{"TE identity", "POST /x HTTP/1.1\r\nTransfer-Encoding: identity\r\n" + host, errNotChunked},
		{"TE twice", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + host, errNotChunked},
		{"TE chunked, chunked", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n" + host, errNotChunked},
		{"TE chunked, then identity", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + host, errNotChunked},
		{"TE with VT before", "POST /x HTTP/1.1\r\nTransfer-Encoding: \vchunked\r\n" + host, errControl},
		{"TE quoted", "POST /x HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n" + host, errNotChunked},
		{"TE with a parameter", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked;q=1\r\n" + host, errNotChunked},
		{"TE empty", "POST /x HTTP/1.1\r\nTransfer-Encoding:\r\n" + host, errNotChunked},
		{"TE with an empty element behind", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n" + host, errNotChunked},
		{"TE gzip, chunked", "POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n" + host, errCoding},
		{"TE with an empty element before", "POST /x HTTP/1.1\r\nTransfer-Encoding: , chunked\r\n" + host, errCoding},
		{"TE in HTTP/1.0", "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + host, errOldTE},
		// Lines and fields: sections 2.2 and 5.
		{"bare LF everywhere", "GET /x HTTP/1.1\nHost: a\n\n", errBareLF},
		{"bare LF behind a field", "GET /x HTTP/1.1\r\nHost: a\n\r\n", errBareLF},
		{"bare LF for the empty line", "GET /x HTTP/1.1\r\nHost: a\r\n\n", errBareLF},
		{"bare CR in a value", "GET /x HTTP/1.1\r\nX: a\rb\r\n" + host, errBareCR},
		{"bare CR in a name", "GET /x HTTP/1.1\r\nX\rY: a\r\n" + host, errBareCR},
		{"bare CR for the empty line", "GET /x HTTP/1.1\r\nHost: a\r\n\rx", errBareCR},
		{"CR CR LF", "GET /x HTTP/1.1\r\nHost: a\r\r\n\r\n", errBareCR},
		{"NUL in a value", "GET /x HTTP/1.1\r\nX: a\x00b\r\n" + host, errControl},
		{"NUL in a name", "GET /x HTTP/1.1\r\nX\x00: a\r\n" + host, errControl},
		{"DEL in a value", "GET /x HTTP/1.1\r\nX: a\x7fb\r\n" + host, errControl},
		{"escape in a value", "GET /x HTTP/1.1\r\nX: 0123456789\x1b\r\n" + host, errControl},
		{"obs-fold", "GET /x HTTP/1.1\r\nX: a\r\n b\r\n" + host, errFold},
		{"obs-fold with a tab", "GET /x HTTP/1.1\r\nX: a\r\n\tb\r\n" + host, errFold},
		{"obs-fold of blanks only", "GET /x HTTP/1.1\r\nX: a\r\n \r\n" + host, errFold},
		{"leading space on the first field", "GET /x HTTP/1.1\r\n Host: a\r\n\r\n", errFold},
		{"empty name", "GET /x HTTP/1.1\r\n: a\r\n" + host, errNameEmpty},
		{"no colon", "GET /x HTTP/1.1\r\nX\r\n" + host, errNoColon},
		{"name with a slash", "GET /x HTTP/1.1\r\nX/Y: a\r\n" + host, errNoColon},
		{"name with a high byte", "GET /x HTTP/1.1\r\nX\xe9: a\r\n" + host, errNoColon},
		{"name in quotes", "GET /x HTTP/1.1\r\n\"X\": a\r\n" + host, errNoColon},
		// Sizes: RFC 6585 section 5.
		{"field of 70 KB", "GET /x HTTP/1.1\r\nX: " + long + "\r\n" + host, errHeadTooLarge},
		{"endless field", "GET /x HTTP/1.1\r\nX: " + long, errHeadTooLarge},
		{"endless name", "GET /x HTTP/1.1\r\n" + long, errHeadTooLarge},
		{"300 fields", "GET /x HTTP/1.1\r\n" + strings.Repeat("X: a\r\n", 300) + host, errManyFields},
		{"300 dropped fields", "GET /x HTTP/1.1\r\n" + strings.Repeat("X_: a\r\n", 300) + host, errManyFields},
		{"101 fields", "GET /x HTTP/1.1\r\n" + strings.Repeat("X: a\r\n", 100) + host, errManyFields},
		{"many nominations", "GET /x HTTP/1.1\r\nConnection: " + strings.Repeat("x,", 40) + "\r\n" + host, errNominations},
		// RFC 9110 section 10.1.1.
		{"unknown Expect", "POST /x HTTP/1.1\r\nExpect: 200-ok\r\n" + host, errExpect},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, max(1, len(c.in)/5000), 7 + len(c.in)/1000} {
				var r Request
				if n, err := parseInPieces(&r, c.in, piece); n != 0 || err != error(c.want) {
					t.Errorf("in pieces of %d: got %d, %v; want %v", piece, n, err, c.want)
				}
			}
		})
	}
}

// parseInPieces gives Parse more bytes step by step, each time in a new buffer
// while the old one is overwritten, and checks that nothing is taken early.
func parseInPieces(r *Request, in string, piece int) (n int, err error) {
	var buf []byte
	for i := 0; ; i = min(len(in), i+piece) {
		old := buf
		buf = append(make([]byte, 0, i), in[:i]...)
		clear(old)
		n, err = r.Parse(buf, &Limits{})
		if n != 0 || err != nil || i == len(in) {
			return n, err
		}
	}
}

func TestRequestRead(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Request
	}{
		{"origin form", "GET /a/b?c=d HTTP/1.1\r\nHost: h:80\r\nAccept: */*\r\n\r\n", Request{
			Method: "GET", Target: "/a/b?c=d", Path: "/a/b", RawQuery: "c=d", Host: "h:80", Minor: 1,
			Fields: []Field{{"Accept", "*/*"}}}},
		{"one leading empty line", "\r\nGET / HTTP/1.1\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1}},
		{"the path is kept byte for byte", "GET /a/../x/%2e%2e//y%2Fz;a=b?q=1;r=%zz&s=? HTTP/1.1\r\n" + host, Request{
			Method: "GET", Target: "/a/../x/%2e%2e//y%2Fz;a=b?q=1;r=%zz&s=?", Path: "/a/../x/%2e%2e//y%2Fz;a=b",
			RawQuery: "q=1;r=%zz&s=?", Host: "a", Minor: 1}},
		{"brackets and quotes in a query", "GET /?a[]=\"b|c\"{^} HTTP/1.1\r\n" + host, Request{
			Method: "GET", Target: "/?a[]=\"b|c\"{^}", Path: "/", RawQuery: "a[]=\"b|c\"{^}", Host: "a", Minor: 1}},
		{"an empty query", "GET /? HTTP/1.1\r\n" + host, Request{
			Method: "GET", Target: "/?", Path: "/", Host: "a", Minor: 1}},
		{"absolute form", "GET HTTP://A/x?y HTTP/1.1\r\n" + host, Request{
			Method: "GET", Target: "/x?y", Path: "/x", RawQuery: "y", Scheme: "http", Host: "A", Minor: 1}},
		{"absolute form without a path", "GET https://a HTTP/1.1\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Scheme: "https", Host: "a", Minor: 1}},
		{"absolute form with a query only", "GET http://a?b=c HTTP/1.1\r\n" + host, Request{
			Method: "GET", Target: "/?b=c", Path: "/", RawQuery: "b=c", Scheme: "http", Host: "a", Minor: 1}},
		{"absolute form in HTTP/1.0", "GET http://a/ HTTP/1.0\r\n\r\n", Request{
			Method: "GET", Target: "/", Path: "/", Scheme: "http", Host: "a", Close: true}},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\n" + host, Request{
			Method: "OPTIONS", Target: "*", Path: "*", Host: "a", Minor: 1}},
		{"IPv6 host", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", Request{
			Method: "GET", Target: "/", Path: "/", Host: "[2001:db8::1]:80", Minor: 1}},
		{"HTTP/1.0 needs no Host and closes", "GET / HTTP/1.0\r\n\r\n", Request{
			Method: "GET", Target: "/", Path: "/", Close: true}},
		{"HTTP/1.0 with keep-alive", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Request{
			Method: "GET", Target: "/", Path: "/"}},
		{"HTTP/1.7 is spoken to as 1.1", "GET / HTTP/1.7\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1}},
		{"Connection: close", "GET / HTTP/1.1\r\nConnection: Close\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Close: true}},
		{"GET with a body", "GET / HTTP/1.1\r\nContent-Length: 5\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Framing: Length, Length: 5}},
		{"an empty body", "POST / HTTP/1.1\r\nContent-Length: 0\r\n" + host, Request{
			Method: "POST", Target: "/", Path: "/", Host: "a", Minor: 1, Framing: Length}},
		{"chunked", "POST / HTTP/1.1\r\ntransfer-encoding:\tChunKed \r\n" + host, Request{
			Method: "POST", Target: "/", Path: "/", Host: "a", Minor: 1, Framing: Chunked, Length: -1}},
		{"Expect: 100-continue", "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 9\r\n" + host, Request{
			Method: "PUT", Target: "/", Path: "/", Host: "a", Minor: 1, Framing: Length, Length: 9, Expect100: true,
			Fields: []Field{{"Expect", "100-Continue"}}}},
		{"Expect without a body", "GET / HTTP/1.1\r\nExpect: 100-continue\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Fields: []Field{{"Expect", "100-continue"}}}},
		{"Upgrade", "GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Upgrade: "websocket"}},
		{"Upgrade that Connection does not nominate", "GET / HTTP/1.1\r\nUpgrade: websocket\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1}},
		{"h2c is not offered", "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1}},
		{"underscores are dropped", "GET / HTTP/1.1\r\nX_Forwarded_For: 1\r\nContent_Length: 5\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Dropped: 2}},
		{"hop-by-hop fields are left out", "GET / HTTP/1.1\r\nConnection: close, X-Real\r\nx-real: 1\r\nKeep-Alive: 5\r\n" +
			"Proxy-Connection: keep-alive\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\nX-Kept: 1\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Close: true, Fields: []Field{{"X-Kept", "1"}}}},
		{"what others depend on cannot be nominated", "GET / HTTP/1.1\r\nConnection: X-Forwarded-For, Host, Cookie, content-length\r\n" +
			"X-Forwarded-For: 1.2.3.4\r\nCookie: a\r\nContent-Length: 3\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Framing: Length, Length: 3,
			Fields: []Field{{"X-Forwarded-For", "1.2.3.4"}, {"Cookie", "a"}}}},
		{"blanks around values go, inside they stay", "GET / HTTP/1.1\r\nX: \t a \t b \t\r\nY:\r\nZ: \r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Fields: []Field{{"X", "a \t b"}, {"Y", ""}, {"Z", ""}}}},
		{"high bytes in values", "GET / HTTP/1.1\r\nX: \xc3\xa9\xff\r\n" + host, Request{
			Method: "GET", Target: "/", Path: "/", Host: "a", Minor: 1, Fields: []Field{{"X", "\xc3\xa9\xff"}}}},
		{"a method of one's own", "PURGE / HTTP/1.1\r\n" + host, Request{
			Method: "PURGE", Target: "/", Path: "/", Host: "a", Minor: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 1, 7} {
				r := Request{Fields: []Field{}}
				n, err := parseInPieces(&r, c.in+"POISON"[:min(6, piece/7)], piece)
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

var ignoreState = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".state" }, cmp.Ignore())

func TestRequestAtTheLimits(t *testing.T) {
	head := func(n int) string { // a head of n bytes
		const frame = "GET / HTTP/1.1\r\nX: \r\n" + host
		return "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", n-len(frame)) + "\r\n" + host
	}
	uri := func(n int) string { return "GET /" + strings.Repeat("a", n-1) + " HTTP/1.1\r\n" + host }
	fields := func(n int) string { return "GET / HTTP/1.1\r\n" + strings.Repeat("X: a\r\n", n-1) + host }
	limits := Limits{Head: 1000, URI: 200, Fields: 20}
	for _, c := range []struct {
		name, in string
		want     error
	}{
		{"a head of the limit", head(1000), nil},
		{"a head one byte over", head(1001), errHeadTooLarge},
		{"a URI of the limit", uri(200), nil},
		{"a URI one byte over", uri(201), errURITooLong},
		{"as many fields as allowed", fields(20), nil},
		{"one field more", fields(21), errManyFields},
	} {
		t.Run(c.name, func(t *testing.T) {
			var whole, dribbled Request
			n, err := whole.Parse([]byte(c.in), &limits)
			if err != c.want || err == nil && n != len(c.in) {
				t.Errorf("whole: got %d, %v; want %v", n, err, c.want)
			}
			buf := []byte(c.in)
			for i := 1; i <= len(buf) && err == nil; i++ {
				n, err = dribbled.Parse(buf[:i], &limits)
				if (n != 0) != (i == len(buf)) && err == nil {
					t.Fatalf("took %d of %d bytes", n, i)
				}
			}
			if err != c.want {
				t.Errorf("dribbled: got %v; want %v", err, c.want)
			}
		})
	}
}

func TestRequestsFollowEachOther(t *testing.T) {
	in := []byte("POST /1 HTTP/1.1\r\nConnection: x-a\r\nHost: a\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n" +
		"GET /2 HTTP/1.1\r\nHost: b\r\nX-A: 1\r\n\r\n")
	var r Request
	var got []string
	for len(in) > 0 {
		n, err := r.Parse(in, &Limits{})
		if n == 0 {
			t.Fatal(err)
		}
		in = in[n:]
		got = append(got, fmt.Sprint(r.Method, r.Target, r.Host, r.Framing, r.Fields))
	}
	want := []string{"POST/1a1 []", "GET/2b0 [{X-A 1}]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestARefusedRequestKeepsWhatWasRead(t *testing.T) {
	var r Request
	_, err := r.Parse([]byte("GET /x?y HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n"), &Limits{})
	if err == nil || r.Method != "GET" || r.Path != "/x" || r.Host != "a" {
		t.Errorf("got %v, %+v", err, r)
	}
	if n, err := r.Parse([]byte("GET / HTTP/1.1\r\n"+host), &Limits{}); n == 0 || err != nil || len(r.Fields) != 0 {
		t.Errorf("the next one: %d, %v", n, err)
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	buf, limits := []byte(typicalRequest), Limits{}
	var r Request
	if n := testing.AllocsPerRun(100, func() { r.Parse(buf, &limits) }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
	bad := []byte("GET /x HTTP/1.1\r\nX: a\x00\r\n\r\n")
	if n := testing.AllocsPerRun(100, func() { r.Parse(bad, &limits) }); n != 0 {
		t.Errorf("%v allocations a bad request", n)
	}
}

func TestErrorsHaveAStatus(t *testing.T) {
	for _, c := range []struct {
		err  *Error
		want int
	}{
		{errNoHost, 400}, {errLengthAndTE, 400}, {errHeadTooLarge, 431}, {errURITooLong, 414},
		{errMethodHere, 405}, {errVersion, 505}, {errCoding, 501}, {errExpect, 417}, {ErrTruncated, 400},
	} {
		var e *Error
		if !errors.As(error(c.err), &e) || e.Kind.Status() != c.want {
			t.Errorf("%v: got %d, want %d", c.err, e.Kind.Status(), c.want)
		}
	}
}
