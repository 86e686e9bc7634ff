package l7

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cirque-lb/lb"
)

// logged is an access log that hands out its lines.
type logged struct{ lines chan map[string]any }

func (l *logged) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		m := map[string]any{}
		if err := json.Unmarshal(line, &m); err != nil {
			m["not JSON"] = string(line)
		}
		l.lines <- m
	}
	return len(p), nil
}

// watchLog makes a running lab write an access log; the proxy closes it.
func (l *lab) watchLog() *logged {
	out := &logged{make(chan map[string]any, 1000)}
	log := newAccessLog(out, len(l.proxy.threads), noLog)
	var set sync.WaitGroup
	set.Add(len(l.proxy.threads))
	l.proxy.access = log
	l.proxy.each(func(*thread) { set.Done() })
	set.Wait()
	return out
}

// sum adds up the samples of a name, of all labels or of those with this value.
func sum(s lb.Stats, name, value string) (n float64) {
	for _, sample := range s.Samples {
		if sample.Name == name && (value == "" || strings.Contains(strings.Join(sample.Labels, " "), value)) {
			n += sample.Value
		}
	}
	return n
}

func TestEveryRequestIsLoggedAndCounted(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		for {
			head := c.request()
			switch {
			case head == "":
				return
			case strings.HasPrefix(head, "GET /die"):
				return
			case strings.HasPrefix(head, "GET /cut"):
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
				return
			case strings.HasPrefix(head, "GET /think"):
				c.rest()
				return
			case strings.HasPrefix(head, "POST"):
				c.body(5)
			}
			c.say(ok)
		}
	})
	dead := deadAddr(t)
	document := fmt.Sprintf(`listeners: { web: { bind: "127.0.0.1:1" } }
routes:
  - { match: { host: [a], path: /dead }, pool: dead }
  - { match: { host: [a], path: /say }, respond: { status: 418, body: tea } }
  - { match: { host: [a] }, pool: app }
pools:
  app: { backends: [%q] }
  dead: { backends: [%q] }
`, o.addr, dead)
	l := startLab(t, labOptions{}, document)
	log := l.watchLog()
	for _, c := range []struct {
		name, request string
		leave         bool // the client goes without waiting
		want          string
	}{
		{name: "a GET", request: "GET /x?y=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: r\"1\r\n\r\n",
			want: `GET a /x?y=1 HTTP/1.1 200 reason= source= route:5 app backend attempts=1 in=0 out=2 id=r"1`},
		{name: "a POST", request: "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
			want: `POST a /p HTTP/1.1 200 reason= source= route:5 app backend attempts=1 in=5 out=2 id=`},
		{name: "a fixed response", request: "GET /say HTTP/1.1\r\nHost: a\r\n\r\n",
			want: `GET a /say HTTP/1.1 418 reason= source= route:4 attempts=0 in=0 out=3 id=`},
		{name: "no route", request: "GET / HTTP/1.1\r\nHost: b\r\n\r\n",
			want: `GET b / HTTP/1.1 404 reason=no_route source=proxy attempts=0 in=0 out=24 id=`},
		{name: "refused by the parser", request: "GET /x HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
			want: `GET a /x HTTP/1.1 400 reason=bad_request source=client attempts=0 in=0 out=29 id=`},
		{name: "no request at all", request: "hello\r\n\r\n",
			want: `HTTP/1.0 400 reason=bad_request source=client attempts=0 in=0 out=29 id=`},
		{name: "a dead backend", request: "GET /dead HTTP/1.1\r\nHost: a\r\n\r\n",
			want: `GET a /dead HTTP/1.1 502 reason=connect_failed source=upstream route:3 dead backend attempts=2 in=0 out=32 id=`},
		{name: "a backend that dies", request: "GET /die HTTP/1.1\r\nHost: a\r\n\r\n",
			want: `GET a /die HTTP/1.1 502 reason=upstream_reset source=upstream route:5 app backend attempts=2 in=0 out=32 id=`},
		{name: "a truncated response", request: "GET /cut HTTP/1.1\r\nHost: a\r\n\r\n",
			want: `GET a /cut HTTP/1.1 200 reason=upstream_reset source=upstream route:5 app backend attempts=1 in=0 out=3 id=`},
		{name: "a client that goes", request: "GET /think HTTP/1.1\r\nHost: a\r\n\r\n", leave: true,
			want: `GET a /think HTTP/1.1 0 reason=client_abort source=client route:5 app backend attempts=1 in=0 out=0 id=`},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := l.proxy.Stats()
			p := l.dial()
			p.say(c.request)
			if !c.leave {
				p.response()
			}
			p.Close()
			line := <-log.lines
			if diff := cmp.Diff(c.want, shortLine(line, o.addr, dead)); diff != "" {
				t.Errorf("want -, got +\n%s\n%v", diff, line)
			}
			after := l.proxy.Stats()
			if n := sum(after, "lbd_requests_total", "") - sum(before, "lbd_requests_total", ""); n != 1 {
				t.Errorf("counted %v times", n)
			}
			reason, _ := line["reason"].(string)
			if n := sum(after, "lbd_request_failures_total", reason) - sum(before, "lbd_request_failures_total", reason); reason != "" && n != 1 {
				t.Errorf("reason %s counted %v times", reason, n)
			}
		})
	}
}

// shortLine is what a log line says, but for times and ports.
func shortLine(m map[string]any, origin, dead string) string {
	var words []string
	for _, key := range []string{"method", "host", "path", "protocol", "status"} {
		if m[key] != nil {
			words = append(words, fmt.Sprint(m[key]))
		}
	}
	text := func(key string) string { s, _ := m[key].(string); return s }
	words = append(words, "reason="+text("reason"), "source="+text("source"))
	for _, key := range []string{"route", "pool", "backend"} {
		if s := text(key); s == origin || s == dead {
			words = append(words, "backend")
		} else if s != "" {
			words = append(words, s)
		}
	}
	client, _, err := net.SplitHostPort(text("client"))
	if client != "127.0.0.1" || err != nil || text("listener") != "web" || m["duration"] == nil || len(text("time")) != len("2026-03-01T12:00:00.007Z") {
		words = append(words, "without client, listener, duration or time")
	}
	return strings.Join(words, " ") + fmt.Sprintf(" attempts=%v in=%v out=%v id=%s", m["attempts"], m["bytes_in"], m["bytes_out"], text("request_id"))
}

// deadAddr is an address that nobody serves.
func deadAddr(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
