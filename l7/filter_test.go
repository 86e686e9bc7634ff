package l7

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// trace notes what is called in which order.
type trace struct {
	mu    sync.Mutex
	calls []string
}

func (tr *trace) note(format string, a ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.calls = append(tr.calls, fmt.Sprintf(format, a...))
}

func (tr *trace) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return strings.Join(tr.calls, " ")
}

// traced notes every phase it is called in.
func (tr *trace) traced(name string) Filter {
	return Filter{
		Name:    name,
		Request: func(*Session) (*Response, error) { tr.note("%s.Request", name); return nil, nil },
		RequestBody: func(_ *Session, p []byte, end bool) ([]byte, error) {
			tr.note("%s.RequestBody(%s,%v)", name, p, end)
			return p, nil
		},
		Pick:     func(*Session) (*Backend, error) { tr.note("%s.Pick", name); return nil, nil },
		Upstream: func(*Session, *Request) error { tr.note("%s.Upstream", name); return nil },
		Response: func(*Session, *Response) error { tr.note("%s.Response", name); return nil },
		ResponseBody: func(_ *Session, p []byte, end bool) ([]byte, error) {
			tr.note("%s.ResponseBody(%s,%v)", name, p, end)
			return p, nil
		},
		Fail: func(_ *Session, err error) *Response { tr.note("%s.Fail", name); return nil },
		Log:  func(_ *Session, err error) { tr.note("%s.Log(%v)", name, err != nil) },
	}
}

// filtered is a configuration with a route that has these filters.
func filtered(names []string, backends ...string) string {
	var specs []string
	for _, n := range names {
		specs = append(specs, n+": {}")
	}
	return routed("filters: [{"+strings.Join(specs, "}, {")+"}]", backends...)
}

// logged waits until the last Log phase has run: it follows the response.
func (tr *trace) logged(l *lab) string {
	for l.proxy.Stats().Requests > 0 {
	}
	done := make(chan bool)
	l.proxy.threads[0].loop.Post(func() { close(done) })
	<-done
	return tr.String()
}

const post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"

func TestPhasesRunInOrder(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			c.chunks()
			c.say(ok)
		}
	})
	for _, c := range []struct {
		name   string
		change func(tr *trace, fs map[string]Filter)
		status string
		want   string
	}{
		{"in and out", nil, "200", "a.Request b.Request c.Request a.Pick b.Pick c.Pick a.Upstream b.Upstream c.Upstream " +
			"a.RequestBody(hi,true) b.RequestBody(hi,true) c.RequestBody(hi,true) c.Response b.Response a.Response " +
			"c.ResponseBody(ok,true) b.ResponseBody(ok,true) a.ResponseBody(ok,true) c.Log(false) b.Log(false) a.Log(false)"},
		{"a response meets only those before its filter", func(tr *trace, fs map[string]Filter) {
			f := fs["b"]
			f.Request = func(*Session) (*Response, error) {
				tr.note("b.answers")
				return &Response{Status: 201, Body: []byte("b")}, nil
			}
			fs["b"] = f
		}, "201", "a.Request b.answers a.Response a.ResponseBody(b,true) b.Log(false) a.Log(false)"},
		{"an error meets the Fail phases of those before", func(tr *trace, fs map[string]Filter) {
			f := fs["c"]
			f.Request = func(*Session) (*Response, error) {
				return nil, &Error{Status: 429, Source: FromClient, Reason: lb.RateLimited}
			}
			fs["c"] = f
		}, "429", "a.Request b.Request b.Fail a.Fail c.Log(true) b.Log(true) a.Log(true)"},
		{"the first Fail response wins and is shaped by those before", func(tr *trace, fs map[string]Filter) {
			f := fs["c"]
			f.Upstream = func(*Session, *Request) error { return errors.New("no") }
			fs["c"] = f
			f = fs["b"]
			f.Fail = func(*Session, error) *Response {
				tr.note("b.answers")
				return &Response{Status: 418, Body: []byte("tea")}
			}
			fs["b"] = f
		}, "418", "a.Request b.Request c.Request a.Pick b.Pick c.Pick a.Upstream b.Upstream c.Fail b.answers a.Response a.ResponseBody(tea,true) " +
			"c.Log(true) b.Log(true) a.Log(true)"},
		{"a failing Response phase leaves those before to answer", func(tr *trace, fs map[string]Filter) {
			f := fs["b"]
			f.Response = func(*Session, *Response) error { return errors.New("no") }
			fs["b"] = f
		}, "500", "a.Request b.Request c.Request a.Pick b.Pick c.Pick a.Upstream b.Upstream c.Upstream " +
			"a.RequestBody(hi,true) b.RequestBody(hi,true) c.RequestBody(hi,true) c.Response a.Fail c.Log(true) b.Log(true) a.Log(true)"},
	} {
		for _, blocking := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, blocking %v", c.name, blocking), func(t *testing.T) {
				tr := new(trace)
				filters := map[string]Filter{}
				for _, name := range []string{"a", "b", "c"} {
					filters[name] = tr.traced(name)
				}
				if c.change != nil {
					c.change(tr, filters)
				}
				for name, f := range filters {
					f.Blocking = blocking
					filters[name] = f
				}
				l := startLab(t, labOptions{filters: filters}, filtered([]string{"a", "b", "c"}, o.addr))
				// The body follows when the backend has the head, so that the
				// trace is the same each time.
				p := l.dial().say(strings.TrimSuffix(post, "hi"))
				for !strings.Contains(tr.String(), "c.Upstream") && !strings.Contains(tr.String(), "Fail") && !strings.Contains(tr.String(), "answers") {
				}
				on(l, func() {})
				r := p.say("hi").response()
				if !strings.HasPrefix(r.status, "HTTP/1.1 "+c.status) {
					t.Errorf("got %q, want %s", r.status, c.status)
				}
				if got := tr.logged(l); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		}
	}
}

// on runs f on the first thread's loop, and waits.
func on(l *lab, f func()) {
	done := make(chan bool)
	l.proxy.threads[0].loop.Post(func() { f(); close(done) })
	<-done
}

func TestAPanicIsA500ThatNamesItsPlace(t *testing.T) {
	o := startOrigin(t, answering(ok))
	for _, blocking := range []bool{false, true} {
		var failure error
		l := startLab(t, labOptions{filters: map[string]Filter{
			"outer": {Log: func(_ *Session, err error) { failure = err }},
			"bad":   {Blocking: blocking, Request: func(*Session) (*Response, error) { panic("boom") }},
		}}, filtered([]string{"outer", "bad"}, o.addr))
		c := l.dial()
		for range 2 {
			c.get("/").want(t, "500", "500 Internal Server Error: filter_panic\n")
			on(l, func() {
				if failure == nil || !strings.Contains(failure.Error(), "filter bad panicked in Request") {
					t.Errorf("got %v", failure)
				}
			})
		}
		if n := l.count("lbd_filter_panics_total"); n != 2 {
			t.Errorf("%d panics counted, want 2", n)
		}
	}
}

func TestFiltersEditHeadsAndBodies(t *testing.T) {
	heads := make(chan string, 1)
	o := startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			body, _ := c.chunks()
			heads <- head + "\nbody: " + body
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello")
		}
	})
	f := Filter{
		RequestBody:  func(_ *Session, p []byte, _ bool) ([]byte, error) { return bytes.ToUpper(p), nil },
		Upstream:     func(_ *Session, r *Request) error { r.Header.Set("X-A", "1"); r.Target = "/new"; return nil },
		Response:     func(_ *Session, r *Response) error { r.Header.Del("server"); r.Header.Add("X-B", "2"); return nil },
		ResponseBody: func(_ *Session, p []byte, end bool) ([]byte, error) { return bytes.Repeat(p, 2), nil },
	}
	c := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, o.addr)).dial()
	for range 2 {
		r := c.say(post).response()
		r.want(t, "200", "hellohello")
		if field(r.head, "server") != "" || field(r.head, "x-b") != "2" {
			t.Errorf("got\n%s", r.head)
		}
		if head := <-heads; !strings.HasPrefix(head, "POST /new ") || field(head, "x-a") != "1" || field(head, "body") != "HI" {
			t.Errorf("the backend got\n%s", head)
		}
	}
}

func TestALocalIsTheRequestsOwn(t *testing.T) {
	o := startOrigin(t, answering(ok))
	var count Local[int]
	f := Filter{
		Request: func(s *Session) (*Response, error) { *count.Of(s)++; return nil, nil },
		Response: func(s *Session, r *Response) error {
			r.Header.Add("X-Count", fmt.Sprint(*count.Of(s)))
			return nil
		},
	}
	c := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, o.addr)).dial()
	for range 3 {
		if r := c.get("/"); field(r.head, "x-count") != "1" {
			t.Errorf("got\n%s", r.head)
		}
	}
}

func TestAFilterPicksTheBackend(t *testing.T) {
	a, b := startOrigin(t, answering(ok)), startOrigin(t, answering(ok))
	f := Filter{Pick: func(s *Session) (*Backend, error) {
		i := slices.IndexFunc(s.Pool.Backends, func(x *Backend) bool { return x.Address() == b.addr })
		return s.Pool.Backends[i], nil
	}}
	c := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, a.addr, b.addr)).dial()
	for range 4 {
		c.get("/").want(t, "200", "ok")
	}
	if a.conns.Load() != 0 {
		t.Error("the other one was asked")
	}
}

func TestABlockingFilterHoldsUpNobodyElse(t *testing.T) {
	o := startOrigin(t, answering(ok))
	blocked, release := make(chan bool), make(chan bool)
	f := Filter{Blocking: true, Request: func(s *Session) (*Response, error) {
		if s.Request.Target == "/slow" {
			blocked <- true
			<-release
		}
		return nil, nil
	}}
	l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, o.addr))
	slow := l.dial().say("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
	<-blocked
	l.dial().get("/").want(t, "200", "ok")
	close(release)
	slow.response().want(t, "200", "ok")
	slow.response().want(t, "200", "ok")
}

func TestABlockingFilterHearsThatTheClientLeft(t *testing.T) {
	o := startOrigin(t, answering(ok))
	blocked, gone := make(chan bool), make(chan error, 1)
	f := Filter{Blocking: true, Request: func(s *Session) (*Response, error) {
		blocked <- true
		<-s.Context().Done()
		gone <- s.Context().Err()
		return nil, nil
	}}
	l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, o.addr))
	c := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-blocked
	c.Close()
	if err := <-gone; err == nil {
		t.Error("the context is alive")
	}
	for l.proxy.Stats().Connections > 0 {
	}
}

func TestTooManyBlockedPhasesAreA503(t *testing.T) {
	o := startOrigin(t, answering(ok))
	var entered sync.WaitGroup
	entered.Add(maxBlocking)
	release := make(chan bool)
	f := Filter{Blocking: true, Request: func(s *Session) (*Response, error) {
		entered.Done()
		<-release
		return nil, nil
	}}
	l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, o.addr))
	var clients []*peer
	for range maxBlocking {
		clients = append(clients, l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	}
	entered.Wait()
	l.dial().get("/").want(t, "503", "503 Service Unavailable: overload\n")
	close(release)
	for _, c := range clients {
		c.response().want(t, "200", "ok")
	}
}

func TestRoutesAnswerThemselves(t *testing.T) {
	c := startLab(t, labOptions{}, `
listeners: { web: { bind: "127.0.0.1:1" } }
routes:
  - { match: { path: /old/ }, redirect: { scheme: https, host: b.example } }
  - { match: { path: "=/health" }, respond: { status: 200, body: "fine\n" } }
  - { match: { host: ["*.c.example"], method: [PUT], header: { x-a: "1" }, query: { q: "a b" } }, respond: { status: 202 } }
  - { match: { path: "~^/v[0-9]+/" }, respond: { status: 203 } }
  - { respond: { status: 404, body: "nothing here\n" } }
`).dial()
	r := c.get("/old/x?y")
	r.want(t, "308", "")
	if got := field(r.head, "location"); got != "https://b.example/old/x?y" {
		t.Errorf("got %q", got)
	}
	c.get("/health").want(t, "200", "fine\n")
	c.get("/healthy").want(t, "404", "nothing here\n")
	c.get("/v12/x").want(t, "203", "")
	c.say("PUT /?q=a+b HTTP/1.1\r\nHost: x.y.C.example:80\r\nX-A: 1\r\n\r\n").response().want(t, "202", "")
	c.say("PUT /?q=ab HTTP/1.1\r\nHost: x.y.C.example:80\r\nX-A: 1\r\n\r\n").response().want(t, "404", "nothing here\n")
	c.say("PUT /?q=a+b HTTP/1.1\r\nHost: c.example\r\nX-A: 1\r\n\r\n").response().want(t, "404", "nothing here\n")
}

func TestAFilterCannotBreakTheRequestLine(t *testing.T) {
	o := startOrigin(t, answering(ok))
	f := Filter{Upstream: func(_ *Session, r *Request) error { r.Target = "/ HTTP/1.1\r\nX: y\r\n\r\nGET /b"; return nil }}
	l := startLab(t, labOptions{filters: map[string]Filter{"f": f}}, filtered([]string{"f"}, o.addr))
	l.dial().get("/").want(t, "500", "500 Internal Server Error: filter_error\n")
}

func TestPhasesAreTimed(t *testing.T) {
	o := startOrigin(t, answering(ok))
	slow := Filter{Response: func(*Session, *Response) error { time.Sleep(2 * time.Millisecond); return nil },
		Log: func(*Session, error) {}}
	l := startLab(t, labOptions{filters: map[string]Filter{"slow": slow}}, filtered([]string{"slow"}, o.addr))
	c := l.dial()
	timed := func() map[string]float64 {
		for range 2 * timeEvery {
			c.get("/")
		}
		got := map[string]float64{}
		for _, s := range l.proxy.Stats().Samples {
			if strings.HasPrefix(s.Name, "lbd_filter_") {
				got[s.Name+" "+strings.Join(s.Labels, " ")] = s.Value
			}
		}
		return got
	}
	got := timed()
	if n := got["lbd_filter_calls_total filter slow phase response"]; n != 2*timeEvery {
		t.Errorf("%v calls, want %d: %v", n, 2*timeEvery, got)
	}
	if s := got["lbd_filter_seconds_total filter slow phase response"]; s < 2*timeEvery*.002 {
		t.Errorf("%v seconds, want %v at least", s, 2*timeEvery*.002)
	}
	// A thread that is put off the CPU in the middle of one takes 64 times as long.
	const empty, tries = "lbd_filter_seconds_total filter slow phase log", 10
	for i, before := 0, 0.0; got[empty]-before > .1; i++ {
		if i == tries {
			t.Fatalf("%v seconds of an empty phase", got[empty]-before)
		}
		before = got[empty]
		got = timed()
	}
}

// A client of HTTP/1.0 need not name a host: it is sent to the address that it
// connected to, the configured one here.
func TestARedirectHasAHost(t *testing.T) {
	document := "listeners: { web: { bind: \"127.0.0.1:1\" } }\nroutes:\n" +
		"  - { match: { path: /secure }, redirect: { scheme: https } }\n  - { redirect: { path: /new } }\n"
	l := startLab(t, labOptions{}, document)
	for path, want := range map[string]string{"/secure": "https://127.0.0.1/secure", "/old": "http://127.0.0.1:1/new"} {
		r := l.dial().say("GET " + path + " HTTP/1.0\r\n\r\n").response()
		if got := field(r.head, "location"); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	if got := redirect(&Request{Scheme: "http", Target: "/x"}, &lb.Redirect{Status: 308, Scheme: "https"}).Header.Get("location"); got != "/x" {
		t.Errorf("over a Unix socket: got %s", got)
	}
}
