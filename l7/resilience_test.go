package l7

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// deadPort is an address where nobody listens.
func deadPort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// dropsReused serves one request on each connection and drops the second after
// reading all of it. It tells how many requests it read.
func dropsReused(requests *atomic.Int64) func(*peer) {
	return func(c *peer) {
		for range 2 {
			head := c.request()
			if head == "" {
				return
			}
			requests.Add(1)
			n := 0
			fmt.Sscan(field(head, "content-length"), &n)
			body := c.body(n)
			if c.used++; c.used == 2 {
				return
			}
			c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		}
	}
}

func TestOnlyWhatIsSafeIsTriedAgain(t *testing.T) {
	big := strings.Repeat("x", 65<<10)
	small := big[:60<<10]
	for _, c := range []struct {
		name, route, request string
		status, body         string
		requests             int64 // that the backend reads, the first one included
	}{
		{"GET", "", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200", "", 3},
		{"HEAD", "", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "200", "", 3},
		{"DELETE", "", "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "200", "", 3},
		{"POST", "", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", "502", "502 Bad Gateway: upstream_reset\n", 2},
		{"PUT with a body that is kept", "", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 61440\r\n\r\n" + small, "200", small, 3},
		{"PUT with a body too large to keep", "", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 66560\r\n\r\n" + big, "502", "502 Bad Gateway: upstream_reset\n", 2},
		{"one attempt only", "retry: { attempts: 1 }", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "502", "502 Bad Gateway: upstream_reset\n", 2},
		{"not on reset", "retry: { on: [connect] }", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "502", "502 Bad Gateway: upstream_reset\n", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests atomic.Int64
			o := startOrigin(t, dropsReused(&requests))
			p := startLab(t, labOptions{}, routed(c.route, o.addr)).dial()
			p.get("/").want(t, "200", "")
			go p.say(c.request)
			var r response
			if strings.HasPrefix(c.request, "HEAD") {
				r.status, r.head, _ = strings.Cut(p.head(), "\n")
			} else {
				r = p.response()
			}
			r.want(t, c.status, c.body)
			if n := requests.Load(); n != c.requests {
				t.Errorf("the backend read %d requests, want %d", n, c.requests)
			}
		})
	}
}

func TestAnotherBackendIsTriedWhenOneRefuses(t *testing.T) {
	o := startOrigin(t, echo)
	l := startLab(t, labOptions{}, pool(deadPort(t), o.addr))
	for range 8 {
		l.dial().say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab").response().want(t, "200", "POST / HTTP/1.1|ab")
	}
}

func TestWhyThereIsNoResponse(t *testing.T) {
	silent := startOrigin(t, func(c *peer) { c.request(); c.rest() })
	for _, c := range []struct{ name, document, status, body string }{
		{"nobody listens", pool(deadPort(t)), "502", "502 Bad Gateway: connect_failed\n"},
		{"the backend is silent", routed("timeout: { request: 50ms }", silent.addr), "504", "504 Gateway Timeout: upstream_timeout\n"},
		{"no route", "listeners: { web: { bind: \"127.0.0.1:1\" } }\nroutes:\n  - { match: { host: [b] }, pool: app }\npools:\n  app: { backends: [\"127.0.0.1:1\"] }\n",
			"404", "404 Not Found: no_route\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startLab(t, labOptions{}, c.document).dial()
			for range 2 { // our own answers leave the connection as it is
				p.get("/").want(t, c.status, c.body)
			}
		})
	}
}

func TestABackendThatIsDownGetsNothing(t *testing.T) {
	a, b := startOrigin(t, answering(ok)), startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(a.addr, b.addr))
	down := func(addrs ...string) {
		s := lb.State{Health: map[lb.BackendID]lb.Health{}}
		for _, addr := range addrs {
			s.Health[lb.BackendID{Pool: "app", Address: addr}] = lb.Down
		}
		l.proxy.SetState(s)
	}
	down(a.addr)
	c := l.dial()
	for range 4 {
		c.get("/").want(t, "200", "ok")
	}
	if a.conns.Load() != 0 || b.conns.Load() != 1 {
		t.Errorf("%d and %d connections, want 0 and 1", a.conns.Load(), b.conns.Load())
	}
	down(a.addr, b.addr)
	c.get("/").want(t, "503", "503 Service Unavailable: no_healthy_backend\n")
	down()
	for range 4 {
		c.get("/").want(t, "200", "ok")
	}
	if a.conns.Load() != 1 {
		t.Errorf("%d connections to the one that came back, want 1", a.conns.Load())
	}
}

func TestRetriesHaveABudget(t *testing.T) {
	l := startLab(t, labOptions{}, pool(deadPort(t), deadPort(t)))
	c := l.dial()
	for range 30 {
		c.get("/").want(t, "502", "502 Bad Gateway: connect_failed\n")
	}
	// Never fewer than ten in ten seconds; more only as a share of many requests.
	if n := l.count("lbd_retries_total"); n < 10 || n > 20 {
		t.Errorf("%d retries of 30 requests", n)
	}
}

// count sums the samples of a name.
func (l *lab) count(name string) int {
	n := 0.0
	for _, s := range l.proxy.Stats().Samples {
		if s.Name == name {
			n += s.Value
		}
	}
	return int(n)
}

func TestASlowHeadIsA408(t *testing.T) {
	l := hurried(t, 100*time.Millisecond, time.Minute, pool(deadPort(t)))
	c := l.dial().say("GET / HTTP/1.1\r\nHo")
	c.response().want(t, "408", "408 Request Timeout: client_timeout\n")
	c.ended(t)
}

func TestAnIdleConnectionEndsInSilence(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := hurried(t, 50*time.Millisecond, 100*time.Millisecond, pool(o.addr))
	c := l.dial()
	if rest := c.rest(); rest != "" {
		t.Errorf("got %q", rest)
	}
	c = l.dial()
	c.get("/").want(t, "200", "ok")
	if rest := c.rest(); rest != "" {
		t.Errorf("got %q", rest)
	}
}

func TestASlowBodyIsA408(t *testing.T) {
	o := startOrigin(t, func(c *peer) { c.request(); c.rest() })
	l := startLab(t, labOptions{}, routed("timeout: { idle: 50ms }", o.addr))
	c := l.dial().say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	c.response().want(t, "408", "408 Request Timeout: client_timeout\n")
}

func TestASilentBodyIsCutOff(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		c.rest()
	})
	l := startLab(t, labOptions{}, routed("timeout: { idle: 50ms }", o.addr))
	if r := l.dial().get("/"); !strings.HasPrefix(r.body, "abc<") {
		t.Errorf("got %q", r.body)
	}
}

func TestAClientThatLeavesEndsItsBackendsConnection(t *testing.T) {
	for name, response := range map[string]string{"while it thinks": "", "in a body": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"} {
		t.Run(name, func(t *testing.T) {
			reached, gone := make(chan bool, 1), make(chan string, 1)
			o := startOrigin(t, func(c *peer) {
				c.request()
				c.say(response)
				reached <- true
				gone <- c.rest()
			})
			c := startLab(t, labOptions{}, pool(o.addr)).dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			<-reached
			c.Close()
			if got := <-gone; got == "<timeout>" {
				t.Error("the backend's connection lives on")
			}
		})
	}
}

func TestATruncatedRequestEndsBothConnections(t *testing.T) {
	reached, gone := make(chan string, 1), make(chan string, 1)
	o := startOrigin(t, func(c *peer) { c.request(); reached <- c.body(3); gone <- c.rest() })
	c := startLab(t, labOptions{}, pool(o.addr)).dial().say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	<-reached
	c.closeWrite()
	if got := <-gone; got != "" && got != "<reset>" {
		t.Errorf("the backend got %q", got)
	}
	c.ended(t)
}

// A reader that does not read stops the other side, with a bounded buffer in
// between.
func TestASlowReaderStopsTheSender(t *testing.T) {
	const chunk, enough = 64 << 10, 64 << 20
	t.Run("response", func(t *testing.T) {
		var sent atomic.Int64
		o := startOrigin(t, func(c *peer) {
			c.request()
			c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", enough))
			c.flood(&sent, chunk, enough)
		})
		l := startLab(t, labOptions{}, pool(o.addr))
		c := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		stopped(t, &sent, enough)
		if r := c.response(); len(r.body) != enough {
			t.Errorf("got %d bytes", len(r.body))
		}
	})
	t.Run("request", func(t *testing.T) {
		var sent atomic.Int64
		read := make(chan bool)
		o := startOrigin(t, func(c *peer) {
			c.request()
			<-read
			c.body(enough)
			c.say(ok)
		})
		l := startLab(t, labOptions{}, pool(o.addr))
		c := l.dial().say(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", enough))
		go c.flood(&sent, chunk, enough)
		stopped(t, &sent, enough)
		close(read)
		c.response().want(t, "200", "ok")
	})
}

// flood writes n bytes and counts what it got rid of.
func (p *peer) flood(sent *atomic.Int64, chunk, n int) {
	p.SetWriteDeadline(time.Now().Add(2 * patience))
	b := make([]byte, chunk)
	for n > 0 {
		m, err := p.Conn.Write(b[:min(chunk, n)])
		sent.Add(int64(m))
		n -= m
		if err != nil {
			return
		}
	}
}

// stopped waits until a sender makes no progress for a while.
func stopped(t *testing.T, sent *atomic.Int64, enough int64) {
	t.Helper()
	last, since := int64(-1), time.Now()
	for time.Since(since) < 300*time.Millisecond {
		if n := sent.Load(); n != last {
			last, since = n, time.Now()
		}
		time.Sleep(time.Millisecond) // a rate is looked at, not a state
	}
	if last >= enough {
		t.Fatalf("all %d bytes are gone although nobody reads", last)
	}
}

func TestTheThreadsShareIdleConnections(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{threads: 4}, pool(o.addr))
	for range 40 { // new clients, on whichever thread is first
		c := l.dial()
		c.get("/").want(t, "200", "ok")
		c.Close()
	}
	if n := o.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend for one request at a time, want 1", n)
	}
	if n := l.count("lbd_upstream_connections_taken_over_total"); n == 0 {
		t.Skip("all clients met the same thread")
	}
}

func TestAnIdleConnectionThatEndsIsForgotten(t *testing.T) {
	closeIt := make(chan bool)
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say(ok)
		<-closeIt
	})
	l := startLab(t, labOptions{}, routed("retry: { attempts: 1 }", o.addr))
	c := l.dial()
	for range 3 {
		c.get("/").want(t, "200", "ok")
		stale := l.count("lbd_upstream_connections_stale_total")
		closeIt <- true
		for l.count("lbd_upstream_connections_stale_total") == stale {
			time.Sleep(time.Millisecond)
		}
	}
	if s := l.proxy.Stats().Backends[0]; s.Connections != 0 || s.Active != 0 || s.Requests != 3 {
		t.Errorf("got %+v", s)
	}
}

func TestABackendsLimitIsA503(t *testing.T) {
	reached, release := make(chan bool), make(chan bool)
	o := startOrigin(t, func(c *peer) { c.request(); reached <- true; <-release; c.say(ok) })
	l := startLab(t, labOptions{}, strings.Replace(pool(o.addr), "app: {", "app: { connections: { per_backend: 1 },", 1))
	first := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-reached
	l.dial().get("/").want(t, "503", "503 Service Unavailable: overload\n")
	close(release)
	first.response().want(t, "200", "ok")
}

func TestDrain(t *testing.T) {
	reached, release := make(chan bool), make(chan bool)
	o := startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			if strings.HasPrefix(head, "GET /slow") {
				reached <- true
				<-release
			}
			c.say(ok)
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	busy, idle := l.dial(), l.dial()
	idle.get("/").want(t, "200", "ok")
	busy.say("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	<-reached
	l.proxy.Drain(time.Now().Add(patience))
	r := idle.get("/") // its next response tells it to go
	r.want(t, "200", "ok")
	if field(r.head, "connection") != "close" {
		t.Errorf("no Connection: close:\n%s", r.head)
	}
	idle.ended(t)
	select {
	case <-l.proxy.Done():
		t.Error("done while a request runs")
	default:
	}
	close(release)
	r = busy.response()
	r.want(t, "200", "ok")
	if field(r.head, "connection") != "close" {
		t.Errorf("no Connection: close:\n%s", r.head)
	}
	select {
	case <-l.proxy.Done():
	case <-time.After(patience / 2):
		t.Error("not done although nobody is left")
	}
	if c, err := net.Dial("tcp", l.addr); err == nil {
		c.Close()
		t.Error("still accepts")
	}
}

func TestDrainEndsAtItsDeadline(t *testing.T) {
	o := startOrigin(t, func(c *peer) { c.request(); c.rest() })
	l := startLab(t, labOptions{}, pool(o.addr))
	l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	l.proxy.Drain(time.Now().Add(50 * time.Millisecond))
	select {
	case <-l.proxy.Done():
	case <-time.After(patience):
		t.Error("not done")
	}
}

func TestADrainingNodeTellsClientsToGo(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.dial()
	c.get("/").want(t, "200", "ok")
	l.proxy.SetState(lb.State{Draining: true})
	if r := c.get("/"); field(r.head, "connection") != "close" {
		t.Errorf("no Connection: close:\n%s", r.head)
	}
	l.dial().get("/").want(t, "200", "ok") // new ones are served all the same

	tunnel := startOrigin(t, func(c *peer) { c.request(); c.rest() })
	l = startLab(t, labOptions{}, pool(tunnel.addr))
	c = l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	for l.proxy.Stats().Requests == 0 {
		time.Sleep(time.Millisecond)
	}
	l.proxy.SetState(lb.State{Draining: true, Cut: true})
	c.ended(t)
}

func TestStragglersAreClosedAndNobodyElse(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	straggler, other := l.dial(), l.dial()
	straggler.get("/").want(t, "200", "ok")
	other.get("/").want(t, "200", "ok")
	l.proxy.SetState(lb.State{Stragglers: []netip.AddrPort{netip.MustParseAddrPort(straggler.LocalAddr().String())}})
	straggler.ended(t)
	other.get("/").want(t, "200", "ok")
}

func TestAUnixSocketBackend(t *testing.T) {
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		answering(ok)(newPeer(t, c))
	}()
	c := startLab(t, labOptions{}, pool("unix:"+path)).dial()
	c.get("/").want(t, "200", "ok")
	c.get("/").want(t, "200", "ok")
}

func TestADisabledBackendIsCut(t *testing.T) {
	reached := make(chan bool, 1)
	o := startOrigin(t, func(c *peer) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		reached <- true
		c.rest()
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-reached
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200") {
		t.Fatalf("got %q", head)
	}
	l.proxy.SetState(lb.State{Admin: map[lb.BackendID]lb.Admin{{Pool: "app", Address: o.addr}: {Disable: true}}})
	if got := c.rest(); got != "abc" && got != "abc<reset>" {
		t.Errorf("got %q", got)
	}
	l.dial().get("/").want(t, "503", "503 Service Unavailable: no_healthy_backend\n")
}
