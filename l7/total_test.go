package l7

import (
	"io"
	"strings"
	"testing"
	"time"
)

// timeout.total bounds a request with all its attempts, however lively it is.
func TestARequestHasATotalTime(t *testing.T) {
	const total = 200 * time.Millisecond
	for name, c := range map[string]struct {
		origin func(*peer)
		say    string
		more   func(*peer) // is said on and on
		want   string      // of the status line; "": the response is cut off
		why    string
	}{
		"no head": {origin: func(c *peer) { c.request(); c.rest() }, want: "504", why: "504 Gateway Timeout: upstream_timeout\n"},
		"a body that goes on and on": {origin: func(c *peer) {
			c.request()
			c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for err := error(nil); err == nil; time.Sleep(10 * time.Millisecond) {
				_, err = io.WriteString(c, "1\r\nx\r\n")
			}
		}},
		"a request's body that goes on and on": {origin: func(c *peer) { c.request(); c.rest() },
			say: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", more: func(c *peer) { dribble(c, "100\r\n"+strings.Repeat("x", 256)+"\r\n", 1000) },
			want: "408", why: "408 Request Timeout: client_timeout\n"},
	} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, c.origin)
			l := startLab(t, labOptions{}, routed("timeout: { total: 200ms }", o.addr))
			began := time.Now()
			p := l.dial()
			if c.say == "" {
				c.say = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
			}
			p.say(c.say)
			if c.more != nil {
				c.more(p)
			}
			r := p.response()
			if c.want != "" {
				r.want(t, c.want, c.why)
			} else if !strings.HasSuffix(r.body, "x<cut>") {
				t.Errorf("got %q %q", r.status, shorten(r.body))
			}
			if d := time.Since(began); d < total {
				t.Errorf("over after %v", d)
			}
		})
	}
}

func TestATunnelHasNoTotalTime(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		time.Sleep(200 * time.Millisecond) // much longer than the total time
		c.say("hello")
	})
	l := startLab(t, labOptions{}, routed("timeout: { total: 50ms }", o.addr))
	c := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
	c.response()
	if got := c.body(5); got != "hello" {
		t.Errorf("got %q", got)
	}
}
