package l7

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// until waits for the trace to have all of these.
func (tr *trace) until(t testing.TB, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		missing := ""
		for _, w := range want {
			if !strings.Contains(tr.String(), w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s; the trace is\n%s", missing, tr)
		}
	}
}

// only keeps the calls of these phases.
func (tr *trace) only(phases ...string) string {
	var kept []string
	for _, call := range strings.Fields(tr.String()) {
		for _, p := range phases {
			if strings.Contains(call, "."+p) {
				kept = append(kept, call)
				break
			}
		}
	}
	return strings.Join(kept, " ")
}

// blockings are the ways that a chain of a, b and c may block.
var blockings = map[string]string{"none blocks": "", "all block": "abc", "the middle one blocks": "b", "the outer ones block": "ac"}

// tracedChain makes three filters that note their calls.
func tracedChain(tr *trace, blocking string, change func(map[string]Filter)) map[string]Filter {
	filters := map[string]Filter{}
	for _, name := range []string{"a", "b", "c"} {
		filters[name] = tr.traced(name)
	}
	if change != nil {
		change(filters)
	}
	for name, f := range filters {
		f.Blocking = strings.Contains(blocking, name)
		filters[name] = f
	}
	return filters
}

// Every piece of a body meets every filter before the next piece meets any, on
// the way in first to last, on the way out last to first; trailers end it.
func TestPiecesMeetFiltersInOrder(t *testing.T) {
	for name, blocking := range blockings {
		t.Run(name, func(t *testing.T) {
			tr, next := new(trace), make(chan string)
			o := startOrigin(t, func(c *peer) {
				c.request()
				c.chunks()
				c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				for piece := range next {
					c.say(piece)
				}
			})
			t.Cleanup(func() { close(next) })
			l := startLab(t, labOptions{filters: tracedChain(tr, blocking, nil)}, filtered([]string{"a", "b", "c"}, o.addr))
			c := l.dial().say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
			for _, piece := range []string{"1\r\n1\r\n", "1\r\n2\r\n"} {
				c.say(piece)
				tr.until(t, "c.RequestBody("+piece[3:4]+",false)")
				on(l, func() {}) // what was off the loop is over
			}
			c.say("0\r\nX-Trailer: 1\r\n\r\n")
			tr.until(t, "a.Response")
			on(l, func() {})
			for _, piece := range []string{"1\r\n3\r\n", "1\r\n4\r\n"} {
				next <- piece
				tr.until(t, "a.ResponseBody("+piece[3:4]+",false)")
				on(l, func() {})
			}
			next <- "0\r\nX-Trailer: 2\r\n\r\n"
			r := c.response()
			if r.want(t, "200", "34"); field(r.trailer, "x-trailer") != "2" {
				t.Errorf("got trailers %q", r.trailer)
			}
			want := "a.RequestBody(1,false) b.RequestBody(1,false) c.RequestBody(1,false) " +
				"a.RequestBody(2,false) b.RequestBody(2,false) c.RequestBody(2,false) " +
				"a.RequestBody(,true) b.RequestBody(,true) c.RequestBody(,true) " +
				"c.ResponseBody(3,false) b.ResponseBody(3,false) a.ResponseBody(3,false) " +
				"c.ResponseBody(4,false) b.ResponseBody(4,false) a.ResponseBody(4,false) " +
				"c.ResponseBody(,true) b.ResponseBody(,true) a.ResponseBody(,true)"
			if got := tr.only("RequestBody", "ResponseBody"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// Pick and Upstream come once per attempt, all else once; the body that is sent
// again is the one that the filters made.
func TestARetryMeetsOnlyThePhasesOfAnAttempt(t *testing.T) {
	for name, blocking := range blockings {
		t.Run(name, func(t *testing.T) {
			tr, bodies := new(trace), make(chan string, 3)
			o := startOrigin(t, func(c *peer) {
				for c.request() != "" {
					body, _ := c.chunks()
					bodies <- body
					if c.number == 1 && len(bodies) > 1 {
						return // a reused connection that breaks
					}
					c.say(ok)
				}
			})
			filters := tracedChain(tr, blocking, func(fs map[string]Filter) {
				for name, f := range fs {
					f.Retry = func(*Session, error) bool { tr.note("%s.Retry", name); return true }
					f.RequestBody = func(_ *Session, p []byte, end bool) ([]byte, error) {
						tr.note("%s.RequestBody", name)
						return append([]byte(name), p...), nil
					}
					fs[name] = f
				}
			})
			l := startLab(t, labOptions{filters: filters}, filtered([]string{"a", "b", "c"}, o.addr))
			c := l.dial()
			for range 2 {
				c.say(strings.Replace(post, "POST", "PUT", 1)).response().want(t, "200", "ok")
			}
			for range 3 {
				if body := <-bodies; body != "cbahi" {
					t.Errorf("the backend got %q", body)
				}
			}
			tr.logged(l)
			first := "a.Request b.Request c.Request a.Pick b.Pick c.Pick a.Upstream b.Upstream c.Upstream "
			_, second, _ := strings.Cut(tr.only("Request", "Pick", "Upstream", "Retry", "RequestBody"), " a.Request b.Request c.Request ")
			second = strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(second, "a.RequestBody ", ""), "b.RequestBody ", ""), "c.RequestBody ", "")
			want := "a.Pick b.Pick c.Pick a.Upstream b.Upstream c.Upstream a.Retry b.Retry c.Retry a.Pick b.Pick c.Pick a.Upstream b.Upstream c.Upstream"
			if second != want || !strings.HasPrefix(tr.only("Request", "Pick", "Upstream"), strings.TrimSuffix(first, " ")[:len("a.Request b.Request c.Request")]) {
				t.Errorf("got  %s\nwant %s", second, want)
			}
			if n := strings.Count(tr.String(), "a.RequestBody"); n != 2 {
				t.Errorf("the filters saw %d bodies of 2 requests", n)
			}
		})
	}
}

// What comes before the response and what follows a 101 is nobody's business.
func TestInterimAndTunnelledBytesMeetNoPhase(t *testing.T) {
	for name, blocking := range blockings {
		t.Run(name, func(t *testing.T) {
			tr := new(trace)
			o := startOrigin(t, func(c *peer) {
				head := c.request()
				c.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
				if field(head, "upgrade") == "" {
					c.say(ok)
					return
				}
				c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
				c.say(c.line() + "\n")
				c.rest()
			})
			l := startLab(t, labOptions{filters: tracedChain(tr, blocking, nil)}, filtered([]string{"a", "b", "c"}, o.addr))
			c := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if r := c.response(); !strings.HasPrefix(r.status, "HTTP/1.1 103") {
				t.Errorf("got %q", r.status)
			}
			c.response().want(t, "200", "ok")
			if got := tr.logged(l); strings.Count(got, "Response") != 6 { // three heads, three bodies
				t.Errorf("got %s", got)
			}

			tr.mu.Lock()
			tr.calls = nil
			tr.mu.Unlock()
			c = l.dial().say("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
			c.response()
			if r := c.response(); !strings.HasPrefix(r.status, "HTTP/1.1 101") {
				t.Fatalf("got %q", r.status)
			}
			if got := c.say("hello\n").line(); got != "hello" {
				t.Errorf("got %q", got)
			}
			c.Close()
			if got := tr.logged(l); strings.Contains(got, "Body") || strings.Contains(got, "Response") || !strings.Contains(got, "a.Log") {
				t.Errorf("got %s", got)
			}
		})
	}
}

// However a client and its backend misbehave around a phase that blocks, every
// request is logged once and nothing is left behind.
func TestBlockingPhasesLeaveNothingBehind(t *testing.T) {
	tr, entered, release := new(trace), make(chan bool), make(chan bool)
	o := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
			if c.number%2 == 0 {
				return // cut off
			}
			c.say("world")
		}
	})
	for _, phase := range []string{"Request", "Pick", "Upstream", "Response", "ResponseBody", "RequestBody", "Log"} {
		stop := func() { entered <- true; <-release }
		f := Filter{Blocking: true, Log: func(*Session, error) { tr.note("Log") }}
		switch phase {
		case "Request":
			f.Request = func(*Session) (*Response, error) { stop(); return nil, nil }
		case "Pick":
			f.Pick = func(*Session) (*Backend, error) { stop(); return nil, nil }
		case "Upstream":
			f.Upstream = func(*Session, *Request) error { stop(); return nil }
		case "Response":
			f.Response = func(*Session, *Response) error { stop(); return nil }
		case "ResponseBody":
			f.ResponseBody = func(_ *Session, p []byte, _ bool) ([]byte, error) { stop(); return p, nil }
		case "RequestBody":
			f.RequestBody = func(_ *Session, p []byte, _ bool) ([]byte, error) { stop(); return p, nil }
		case "Log":
			f.Log = func(*Session, error) { tr.note("Log"); stop() }
		}
		for _, leaves := range []bool{false, true} {
			t.Run(fmt.Sprint(phase, ", the client leaves: ", leaves), func(t *testing.T) {
				tr.mu.Lock()
				tr.calls = nil
				tr.mu.Unlock()
				l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, o.addr))
				for range 2 { // the backend's whole and its cut answer
					c := l.dial().say(post)
					<-entered
					if leaves {
						c.Close()
					}
					release <- true
					for l.proxy.Stats().Requests > 0 || l.proxy.Stats().Connections > 0 && leaves {
						select {
						case <-entered: // pieces come one by one
							release <- true
						default:
						}
					}
					c.Close()
				}
				if got := tr.logged(l); got != "Log Log" {
					t.Errorf("got %s", got)
				}
				if n := l.proxy.blocking.Load(); n != 0 {
					t.Errorf("%d phases still block", n)
				}
			})
		}
	}
}
