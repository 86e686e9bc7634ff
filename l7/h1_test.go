package l7

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func dup(f *os.File) (int, error) { return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) }

func TestARequestReachesABackendAndItsResponseReturns(t *testing.T) {
	heads := make(chan string, 2)
	o := startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			heads <- head
			c.say(ok)
		}
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	c.get("/x?y=z").want(t, "200 OK", "ok")
	head := <-heads
	for name, want := range map[string]string{"host": "a.example", "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "a.example"} {
		if got := field(head, name); got != want {
			t.Errorf("%s: got %q, want %q\n%s", name, got, want, head)
		}
	}
	c.get("/x").want(t, "200 OK", "ok")
	<-heads
	if n := o.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend, want 1", n)
	}
}

// echo answers with the request's head and body, so that a test sees what the
// backend saw.
func echo(c *peer) {
	for {
		head := c.request()
		if head == "" {
			return
		}
		body, n := "", 0
		if field(head, "transfer-encoding") == "chunked" {
			var trailer string
			if body, trailer = c.chunks(); trailer != "" {
				body += "|" + trailer
			}
		} else if _, err := fmt.Sscan(field(head, "content-length"), &n); err == nil {
			body = c.body(n)
		}
		line, _, _ := strings.Cut(head, "\n")
		out := line + "|" + body
		c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(out), out))
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	o := startOrigin(t, echo)
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	const n = 500
	var all strings.Builder
	for i := range n {
		if i%3 == 0 {
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n%05d", i, i)
		} else {
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		}
	}
	go c.say(all.String())
	for i := range n {
		want := fmt.Sprintf("GET /%d HTTP/1.1|", i)
		if i%3 == 0 {
			want = fmt.Sprintf("POST /%d HTTP/1.1|%05d", i, i)
		}
		if got := c.response(); got.body != want {
			t.Fatalf("response %d: got %q, want %q", i, got.body, want)
		}
	}
}

func TestBodiesAndTrailersPassBothWays(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 100_000)
	for _, c := range []struct{ name, request, origin, body, trailer string }{
		{"a chunked request", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", "", "POST / HTTP/1.1|abcde", ""},
		{"a request with trailers", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", "", "POST / HTTP/1.1|abc|X-T: 1", ""},
		{"a large request", fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(big), big), "", "POST / HTTP/1.1|" + big, ""},
		{"an empty POST", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "", "POST / HTTP/1.1|", ""},
		{"a chunked response", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "abc", ""},
		{"a response with trailers", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", "abc", "X-T: 1"},
		{"a large response", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big), big, ""},
		{"a large chunked response", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big), big, ""},
		{"an empty response", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", ""},
		{"no content", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", "", ""},
		{"not modified", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			script := echo
			if c.origin != "" {
				script = answering(c.origin)
			}
			o := startOrigin(t, script)
			p := startLab(t, labOptions{}, pool(o.addr)).dial()
			for range 2 { // the connection is as good as new
				go p.say(c.request)
				r := p.response()
				if r.body != c.body || r.trailer != c.trailer {
					t.Fatalf("got %s %q %q, want %q %q\n%s", r.status, shorten(r.body), r.trailer, shorten(c.body), c.trailer, r.head)
				}
			}
			if n := o.conns.Load(); n != 1 {
				t.Errorf("%d connections to the backend, want 1", n)
			}
		})
	}
}

func TestABodyThatLastsUntilCloseIsChunkedOn(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\n\r\nall there is")
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	for range 2 {
		r := c.get("/")
		r.want(t, "200 OK", "all there is")
		if field(r.head, "transfer-encoding") != "chunked" {
			t.Errorf("not chunked:\n%s", r.head)
		}
	}
}

func TestHTTP10(t *testing.T) {
	o := startOrigin(t, answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.dial().say("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
	r := c.response()
	r.want(t, "200 OK", "abc")
	if field(r.head, "connection") != "close" {
		t.Errorf("no Connection: close:\n%s", r.head)
	}
	c.ended(t)

	o2 := startOrigin(t, answering(ok))
	c = startLab(t, labOptions{}, pool(o2.addr)).dial()
	for range 2 {
		r := c.say("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").response()
		r.want(t, "200 OK", "ok")
		if field(r.head, "connection") != "keep-alive" {
			t.Errorf("no Connection: keep-alive:\n%s", r.head)
		}
	}
}

func TestHEAD(t *testing.T) {
	o := startOrigin(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"))
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	for range 2 {
		c.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
		head := c.head()
		if field(head, "content-length") != "1234" {
			t.Errorf("got\n%s", head)
		}
	}
}

func TestInterimResponsesPass(t *testing.T) {
	o := startOrigin(t, answering("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+ok))
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	for range 2 {
		c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if hints := c.response(); hints.status != "HTTP/1.1 103 Early Hints" || field(hints.head, "link") != "</a>" {
			t.Fatalf("got %q\n%s", hints.status, hints.head)
		}
		c.response().want(t, "200 OK", "ok")
	}
}

func TestExpectContinuePasses(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			c.say("HTTP/1.1 100 Continue\r\n\r\n")
			body := c.body(5)
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
		}
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	for range 2 {
		c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		if r := c.response(); r.status != "HTTP/1.1 100 Continue" {
			t.Fatalf("got %q", r.status)
		}
		c.say("hello").response().want(t, "200 OK", "hello")
	}
}

func TestAnEarlyAnswerEndsBothConnections(t *testing.T) {
	gone := make(chan string, 1)
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
		gone <- c.rest()
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n")
	r := c.response()
	r.want(t, "413", "big")
	if field(r.head, "connection") != "close" {
		t.Errorf("no Connection: close:\n%s", r.head)
	}
	c.say("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
	c.ended(t)
	if rest := <-gone; rest != "" && rest != "<reset>" {
		t.Errorf("the backend got %q", rest)
	}
}

func TestTunnel(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		head := c.request()
		if field(head, "upgrade") != "websocket" || field(head, "connection") != "upgrade" {
			t.Errorf("the backend got\n%s", head)
		}
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
		c.say("got " + c.body(4))
		if rest := c.rest(); rest != "bye" {
			t.Errorf("the backend got %q at the end", rest)
		}
		c.say(" end")
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	c.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping")
	r := c.head()
	if !strings.HasPrefix(r, "HTTP/1.1 101 ") || field(r, "upgrade") != "websocket" || field(r, "connection") != "upgrade" {
		t.Errorf("got\n%s", r)
	}
	if got := c.body(14); got != "hello got ping" {
		t.Errorf("got %q", got)
	}
	c.say("bye")
	c.closeWrite()
	if got := c.rest(); got != " end" {
		t.Errorf("got %q at the end", got)
	}
}

func TestARefusedUpgradeLeavesHTTP(t *testing.T) {
	o := startOrigin(t, echo)
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	c.say("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
	c.response().want(t, "200", "GET /1 HTTP/1.1|")
	c.response().want(t, "200", "GET /2 HTTP/1.1|")
}

func TestBadRequestsAreAnsweredAndTheConnectionEnds(t *testing.T) {
	o := startOrigin(t, echo)
	l := startLab(t, labOptions{}, pool(o.addr))
	for request, want := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":                                                      "400",
		"GET / HTTP/2.0\r\nHost: a\r\n\r\n":                                           "505",
		"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n":                                         "405",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n": "400",
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n": "431",
		"GET /" + strings.Repeat("a", 70<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n":        "414",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n":     "400",
	} {
		c := l.dial()
		go c.say(request)
		if r := c.response(); !strings.HasPrefix(r.status, "HTTP/1.1 "+want) || field(r.head, "connection") != "close" {
			t.Errorf("%q: got %q, want %s\n%s", shorten(request), r.status, want, r.head)
		}
		c.ended(t)
	}
}

func TestTruncatedResponsesNeverLookComplete(t *testing.T) {
	for name, response := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"garbage": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, func(c *peer) { c.request(); c.say(response) })
			r := startLab(t, labOptions{}, pool(o.addr)).dial().get("/")
			if !strings.Contains(r.body, "<") {
				t.Errorf("got a whole response: %q", r.body)
			}
		})
	}
}

func TestBadResponsesAreA502(t *testing.T) {
	for name, response := range map[string]string{
		"garbage":         "hello\r\n\r\n",
		"nothing":         "",
		"half a head":     "HTTP/1.1 200 OK\r\nContent-",
		"too large":       "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100<<10) + "\r\n\r\n",
		"two lengths":     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"unasked upgrade": "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"103 then death":  "HTTP/1.1 103 Early Hints\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, func(c *peer) { c.request(); c.say(response) })
			c := startLab(t, labOptions{}, pool(o.addr)).dial()
			r := c.get("/")
			if strings.Contains(r.status, "103") {
				r = c.response()
			}
			if !strings.HasPrefix(r.status, "HTTP/1.1 502 ") {
				t.Errorf("got %q", r.status)
			}
			if n := o.conns.Load(); n != 1 {
				t.Errorf("%d attempts, want 1", n)
			}
		})
	}
}

func TestWhatFollowsAResponseReachesNobody(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say(ok + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON")
		c.rest()
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	for range 3 {
		c.get("/").want(t, "200 OK", "ok")
	}
	if n := o.conns.Load(); n != 3 {
		t.Errorf("%d connections to the backend, want 3", n)
	}
}

func TestHopByHopFieldsStayBehind(t *testing.T) {
	heads := make(chan string, 1)
	o := startOrigin(t, func(c *peer) {
		heads <- c.request()
		c.say("HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok")
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	r := c.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Real, X-Forwarded-For\r\nX-Real: 1\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\n" +
		"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Kept: 1\r\n\r\n").response()
	head := <-heads
	for _, name := range []string{"X-Real", "Keep-Alive", "Proxy-Connection", "Forwarded", "Connection"} {
		if got := field(head, name); got != "" {
			t.Errorf("the backend got %s: %s", name, got)
		}
	}
	if got := field(head, "X-Forwarded-For") + field(head, "X-Forwarded-Proto") + field(head, "X-Kept"); got != "127.0.0.1http1" {
		t.Errorf("got %q\n%s", got, head)
	}
	if field(r.head, "X-Secret")+field(r.head, "Keep-Alive") != "" || field(r.head, "X-Kept") != "1" || field(r.head, "Date") == "" {
		t.Errorf("got\n%s", r.head)
	}
}

func TestATrustedProxyIsBelieved(t *testing.T) {
	heads := make(chan string, 1)
	o := startOrigin(t, func(c *peer) { heads <- c.request(); c.say(ok) })
	c := startLab(t, labOptions{}, "trusted: [127.0.0.0/8]\n"+pool(o.addr)).dial()
	c.say("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n\r\n").response()
	head := <-heads
	if got := field(head, "X-Forwarded-For") + " " + field(head, "X-Forwarded-Proto") + " " + field(head, "X-Forwarded-Host"); got != "192.0.2.1, 127.0.0.1 https b" {
		t.Errorf("got %q", got)
	}
}

func TestForwardedAndViaTellTheWay(t *testing.T) {
	heads := make(chan string, 1)
	o := startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			heads <- head
			c.say("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nVia: 1.1 cache\r\nContent-Length: 0\r\n\r\n")
		}
	})
	for _, c := range []struct{ name, trusted, fields, want string }{
		{"nothing is known", "", "", `for=127.0.0.1;proto=http;host="a:80"`},
		{"a stranger is not believed", "", "Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\n", `for=127.0.0.1;proto=http;host="a:80"`},
		{"a trusted proxy is", "trusted: [127.0.0.0/8]\n", "Forwarded: for=192.0.2.1;proto=https\r\nForwarded: for=_x\r\n",
			`for=192.0.2.1;proto=https, for=_x, for=127.0.0.1;proto=http;host="a:80"`},
		{"one that speaks the older language, too", "trusted: [127.0.0.0/8]\n", "X-Forwarded-For: 2001:db8::1, 192.0.2.1:99, ?\r\n",
			`for="[2001:db8::1]", for=192.0.2.1, for=unknown, for=127.0.0.1;proto=http;host="a:80"`},
	} {
		l := startLab(t, labOptions{}, c.trusted+"forward: { forwarded: true, via: edge }\n"+pool(o.addr))
		r := l.dial().say("GET / HTTP/1.1\r\nHost: a:80\r\nVia: 2.0 front\r\n" + c.fields + "\r\n").response()
		head := <-heads
		if got := field(head, "Forwarded"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if !strings.Contains(head, "\nVia: 2.0 front\n") || !strings.HasSuffix(head, "\nVia: 1.1 edge") {
			t.Errorf("%s: the backend got %q", c.name, head)
		}
		if !strings.Contains(r.head, "Via: 1.1 cache\n") || !strings.Contains(r.head, "\nVia: 1.0 edge\n") {
			t.Errorf("%s: the client got %q", c.name, r.head)
		}
	}
	l := startLab(t, labOptions{}, pool(o.addr))
	if r := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=6.6.6.6\r\n\r\n").response(); strings.Contains(<-heads+r.head, "edge") {
		t.Error("Via without being asked")
	}
}

// Whoever speaks no HTTP/1 would take an answer in it for something else: h2spec
// for frames. Who has spoken it before gets one.
func TestAnotherProtocolGetsNoAnswer(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	for _, s := range []string{"INVALID CONNECTION PREFACE\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"} {
		c := l.dial().say(s)
		if got := c.rest(); got != "" {
			t.Errorf("%q: got %q", s, got)
		}
		if all := l.proxy.Refused(); len(all) == 0 || string(all[0].Head) != s[:len(all[0].Head)] {
			t.Errorf("%q is not kept: %+v", s, all)
		}
	}
	c := l.dial()
	c.get("/").want(t, "200", "ok")
	if r := c.say("INVALID CONNECTION PREFACE\r\n\r\n").response(); !strings.HasPrefix(r.status, "HTTP/1.1 400") {
		t.Errorf("behind a request: got %q", r.status)
	}
}

// What comes before a response cannot be held back while the client does not
// read it.
func TestInterimResponsesAreBounded(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		c.request()
		for {
			c.SetWriteDeadline(time.Now().Add(patience))
			if _, err := c.Write([]byte("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")); err != nil {
				return
			}
		}
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	for n := 0; ; n++ {
		switch r := c.response(); {
		case strings.HasPrefix(r.status, "HTTP/1.1 502 "):
			return
		case !strings.HasPrefix(r.status, "HTTP/1.1 103 ") || n > 10_000:
			t.Fatalf("response %d is %q", n, r.status)
		}
	}
}

// A backend that dies may do so while we write: its reset is no end of a body
// that lasts until the end.
func TestAResetIsNoEndOfABody(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\n\r\npart of it")
		c.body(1 << 20)
		c.Conn.(*net.TCPConn).SetLinger(0)
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	for range 20 {
		c := l.dial()
		c.SetDeadline(time.Now().Add(patience))
		c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
		var sending sync.WaitGroup
		sending.Go(func() {
			for err := error(nil); err == nil; {
				_, err = c.Write(make([]byte, 4<<10))
			}
		})
		if r := c.response(); !strings.HasSuffix(r.body, "<cut>") {
			t.Errorf("got %q %q, as if it were whole", r.status, r.body)
		}
		c.Close()
		sending.Wait()
	}
}
