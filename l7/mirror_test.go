package l7

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// recording is a backend that tells what it gets.
func recording(t testing.TB, response string) (*origin, chan string) {
	got := make(chan string, 1000)
	return startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			body := ""
			if n := field(head, "content-length"); n != "" {
				var length int
				fmt.Sscan(n, &length)
				body = c.body(length)
			} else if field(head, "transfer-encoding") != "" {
				body, _ = c.chunks()
			}
			got <- head + "\n\n" + body
			c.say(response)
		}
	}), got
}

// mirrored is a configuration whose requests shadow gets, too.
func mirrored(app, shadow string) string {
	return filtered([]string{"mirror", "edit"}, app) + fmt.Sprintf("  shadow: { backends: [%q] }\n", shadow)
}

var mirroring = map[string]Filter{
	"mirror": {Request: func(s *Session) (*Response, error) { s.Mirror(s.PoolNamed("shadow")); return nil, nil }},
	"edit": {
		Upstream:    func(_ *Session, r *Request) error { r.Target += "?edited"; return nil },
		RequestBody: func(s *Session, p []byte, _ bool) ([]byte, error) { return []byte(strings.ToUpper(string(p))), nil },
	},
}

func (l *lab) mirroredSoon(n int) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); int(l.count("lbd_mirrored_requests_total")) < n; {
		if time.Now().After(deadline) {
			l.t.Fatalf("%v copies, want %d", l.count("lbd_mirrored_requests_total"), n)
		}
	}
}

func TestACopyIsWhatTheBackendGot(t *testing.T) {
	app, got := recording(t, ok)
	shadow, copies := recording(t, "HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad")
	l := startLab(t, labOptions{filters: mirroring}, mirrored(app.addr, shadow.addr))
	c := l.dial()
	for i, request := range []string{
		"GET /a HTTP/1.1\r\nHost: a.example\r\nX-A: 1\r\n\r\n",
		"POST /b HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
		"POST /c HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n",
		"GET /d HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
	} {
		c.say(request).response().want(t, "200", "ok")
		l.mirroredSoon(i + 1)
		if a, b := <-got, <-copies; a != b || !strings.Contains(a, "?edited") {
			t.Errorf("the backend got\n%s\nthe copy is\n%s", a, b)
		}
	}
}

// Whatever the shadow does, or does not, the client notices nothing.
func TestACopyDisturbsNobody(t *testing.T) {
	app := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			c.chunks()
			c.say(ok)
		}
	})
	hanging := startOrigin(t, func(c *peer) { c.rest() })
	for name, shadow := range map[string]string{
		"refuses": "127.0.0.1:1",
		"hangs":   hanging.addr,
		"resets":  startOrigin(t, func(c *peer) { c.line() }).addr,
		"rubbish": startOrigin(t, answering("rubbish\r\n\r\n")).addr,
		"early":   startOrigin(t, func(c *peer) { c.say("HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") }).addr,
	} {
		l := startLab(t, labOptions{filters: mirroring}, mirrored(app.addr, shadow))
		c := l.dial()
		for range 2 * maxCopies {
			c.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").response().want(t, "200", "ok")
		}
		if name == "hangs" {
			l.mirroredSoon(maxCopies) // those beyond what may be under way
			on(l, func() {
				if n := l.proxy.threads[0].copies; n != maxCopies {
					t.Errorf("%d copies are under way, want %d", n, maxCopies)
				}
			})
			l.proxy.SetState(lb.State{Admin: map[lb.BackendID]lb.Admin{{Pool: "shadow", Address: shadow}: {Disable: true}}})
		}
		l.mirroredSoon(2 * maxCopies)
		on(l, func() {
			if n := l.proxy.threads[0].copies; n != 0 {
				t.Errorf("%s: %d copies are left", name, n)
			}
		})
		if n := l.proxy.Stats().Requests; n != 0 {
			t.Errorf("%s: %d requests are left", name, n)
		}
	}
}

func TestALargeBodyIsNotCopied(t *testing.T) {
	app, _ := recording(t, ok)
	shadow, copies := recording(t, ok)
	l := startLab(t, labOptions{filters: mirroring}, mirrored(app.addr, shadow.addr))
	c := l.dial()
	send := func(n int) {
		c.say(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n))).response().want(t, "200", "ok")
	}
	send(maxCopyBody + 1)
	l.mirroredSoon(1)
	if len(copies) > 0 {
		t.Error("it was copied")
	}
	send(maxCopyBody)
	l.mirroredSoon(2)
	if len(copies) != 1 {
		t.Error("one of the limit's size was not copied")
	}
}

// A request that its client leaves in the middle has no copy.
func TestAnUnfinishedRequestIsNotCopied(t *testing.T) {
	app, _ := recording(t, ok)
	shadow, _ := recording(t, ok)
	l := startLab(t, labOptions{filters: mirroring}, mirrored(app.addr, shadow.addr))
	c := l.dial().say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
	for app.conns.Load() == 0 {
	}
	c.Close()
	for l.proxy.Stats().Connections > 0 {
	}
	if shadow.conns.Load() != 0 || l.count("lbd_mirrored_requests_total") != 0 {
		t.Error("there is a copy")
	}
}
