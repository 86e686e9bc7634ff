package l7

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
)

func TestClientIsWhomTrustedProxiesName(t *testing.T) {
	got := make(chan string, 1)
	f := Filter{Request: func(s *Session) (*Response, error) {
		got <- fmt.Sprint(s.Client(), " ", s.Trusted())
		return &Response{Status: 204}, nil
	}}
	for _, trusted := range []string{"127.0.0.0/8, 10.0.0.0/8", "192.0.2.0/24"} {
		c := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, "trusted: ["+trusted+"]\n"+filtered([]string{"f"}, "127.0.0.1:1")).dial()
		for _, tt := range []struct{ name, fields, want string }{
			{"nobody says anything", "", "127.0.0.1"},
			{"a proxy names the client", "X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"},
			{"what the client itself wrote does not count", "X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\n", "203.0.113.9"},
			{"a chain of proxies", "X-Forwarded-For: 1.1.1.1, 203.0.113.9, 10.1.2.3\r\n", "203.0.113.9"},
			{"over several fields", "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 10.1.2.3,10.1.2.4\r\n", "203.0.113.9"},
			{"only proxies", "X-Forwarded-For: 10.1.2.3\r\n", "10.1.2.3"},
			{"with ports", "X-Forwarded-For: [2001:db8::1]:80, 10.1.2.3:4\r\n", "2001:db8::1"},
			{"IPv6 bare and in brackets", "X-Forwarded-For: 2001:db8::1, ::ffff:10.1.2.3\r\n", "2001:db8::1"},
			{"rubbish ends the way", "X-Forwarded-For: 203.0.113.9, unknown, 10.1.2.3\r\n", "10.1.2.3"},
			{"empty items, too", "X-Forwarded-For: 203.0.113.9,,10.1.2.3\r\n", "10.1.2.3"},
			{"and addresses with zones", "X-Forwarded-For: fe80::1%eth0\r\n", "127.0.0.1"},
		} {
			want := tt.want + " true"
			if trusted == "192.0.2.0/24" {
				want = "127.0.0.1 false"
			}
			c.say("GET / HTTP/1.1\r\nHost: a\r\n"+tt.fields+"\r\n").response().want(t, "204", "")
			if g := <-got; g != want {
				t.Errorf("%s: got %s, want %s", tt.name, g, want)
			}
		}
	}
}

func TestAFilterChoosesAPoolByName(t *testing.T) {
	a, b := startOrigin(t, answering(ok)), startOrigin(t, answering(ok))
	f := Filter{Request: func(s *Session) (*Response, error) {
		if s.PoolNamed("none") != nil {
			t.Error("a pool that does not exist was found")
		}
		s.Pool = s.PoolNamed(s.Request.Header.Get("x-pool"))
		return nil, nil
	}}
	c := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, a.addr)+fmt.Sprintf("  other: { backends: [%q] }\n", b.addr)).dial()
	c.say("GET / HTTP/1.1\r\nHost: a\r\nX-Pool: other\r\n\r\n").response().want(t, "200", "ok")
	c.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().want(t, "200", "ok") // none chosen: the route's
	if a.conns.Load() != 1 || b.conns.Load() != 1 {
		t.Errorf("%d and %d connections, want one each", a.conns.Load(), b.conns.Load())
	}
}

func TestABodyThatFiltersPassKeepsItsLength(t *testing.T) {
	heads := make(chan string, 1)
	o := startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			heads <- head
			if field(head, "content-length") != "" {
				c.body(2)
			} else {
				c.chunks()
			}
			c.say(ok)
		}
	})
	body := func(_ *Session, p []byte, _ bool) ([]byte, error) { return append([]byte(nil), p...), nil }
	passing := func(name string) Filter {
		return Filter{RequestBody: body, ResponseBody: body,
			Request: func(s *Session) (*Response, error) {
				if strings.Contains(s.Request.Target, name) {
					s.PassBody()
				}
				return nil, nil
			},
			Response: func(s *Session, _ *Response) error {
				if strings.Contains(s.Request.Target, name) {
					s.PassBody()
				}
				return nil
			}}
	}
	for _, blocking := range []bool{false, true} {
		a, b := passing("a"), passing("b")
		a.Blocking = blocking
		c := startLab(t, labOptions{filters: map[string]Filter{"a": a, "b": b}}, filtered([]string{"a", "b"}, o.addr)).dial()
		for target, kept := range map[string]bool{"/": false, "/a": false, "/b": false, "/ab": true} {
			r := c.say("POST " + target + " HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").response()
			r.want(t, "200", "ok")
			if in, out := field(<-heads, "content-length") == "2", field(r.head, "content-length") == "2"; in != kept || out != kept {
				t.Errorf("%s, blocking %v: length kept on the way in: %v, out: %v; want %v", target, blocking, in, out, kept)
			}
		}
	}
}

func TestABlockingFilterRunsInlineWhenItMay(t *testing.T) {
	tr := new(trace)
	f := Filter{Blocking: true,
		Inline: func(s *Session) bool {
			if s.Request.Target == "/panic" {
				panic("no")
			}
			return s.Request.Target == "/quick"
		},
		Request: func(s *Session) (*Response, error) {
			tr.note("%s:%v", s.Request.Target, s.ctx != nil) // only what runs off the loop has one
			return nil, nil
		}}
	c := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, startOrigin(t, answering(ok)).addr)).dial()
	for _, path := range []string{"/quick", "/slow", "/panic"} {
		c.get(path).want(t, "200", "ok")
	}
	if got := tr.String(); got != "/quick:false /slow:true /panic:true" {
		t.Errorf("got %s", got)
	}
}

func TestAnErrorBringsItsFields(t *testing.T) {
	f := Filter{Request: func(*Session) (*Response, error) {
		return nil, &Error{Status: 401, Source: FromClient, Reason: lb.FilterError, Err: errors.New("who are you"),
			Header: Header{{Name: "WWW-Authenticate", Value: `Basic realm="x"`}}}
	}}
	r := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, "127.0.0.1:1")).dial().get("/")
	r.want(t, "401", "401 Unauthorized: filter_error\n")
	if field(r.head, "www-authenticate") != `Basic realm="x"` {
		t.Errorf("got\n%s", r.head)
	}
}
