package l7

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// limited is a pool with one backend and these limits.
func limited(limits, backend string) string {
	return strings.Replace(pool(backend), "backends:", "connections: { "+limits+" }, backends:", 1)
}

// gated is an origin that answers each request once it is let.
func gated(t *testing.T) (o *origin, asked, gate chan struct{}) {
	asked, gate = make(chan struct{}, 100), make(chan struct{})
	o = startOrigin(t, func(c *peer) {
		for c.request() != "" {
			asked <- struct{}{}
			<-gate
			c.say(ok)
		}
	})
	t.Cleanup(func() { close(gate) })
	return o, asked, gate
}

func (l *lab) pendingOutcomes() map[string]float64 {
	got := map[string]float64{}
	for _, s := range l.proxy.Stats().Samples {
		if s.Name == "lbd_upstream_pending_total" {
			got[s.Labels[3]] += s.Value
		}
	}
	return got
}

func TestARequestWaitsForRoomAtItsBackend(t *testing.T) {
	for _, limits := range []string{"per_backend: 1", "requests: 1"} {
		o, asked, gate := gated(t)
		l := startLab(t, labOptions{}, limited(limits, o.addr))
		first, second := l.dial(), l.dial()
		first.say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
		<-asked
		second.say("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
		l.until(func() bool { return l.pending() == 1 })
		gate <- struct{}{}
		first.response().want(t, "200", "ok")
		<-asked
		gate <- struct{}{}
		second.response().want(t, "200", "ok")
		if got := l.pendingOutcomes(); got["served"] != 1 || o.conns.Load() != 1 {
			t.Errorf("%s: %v with %d connections, want one served over the first", limits, got, o.conns.Load())
		}
	}
}

func TestAQueueIsBoundedInPlaceAndTime(t *testing.T) {
	o, asked, _ := gated(t)
	l := startLab(t, labOptions{}, limited("per_backend: 1, pending: 1, connect_timeout: 300ms", o.addr))
	l.dial().say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
	<-asked
	second, third := l.dial(), l.dial()
	second.say("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
	l.until(func() bool { return l.pending() == 1 })
	third.get("/3").want(t, "503", "503 Service Unavailable: overload\n")
	second.response().want(t, "503", "503 Service Unavailable: overload\n")
	if got := l.pendingOutcomes(); got["timeout"] == 0 || got["full"] == 0 {
		t.Errorf("got %v, want a full queue and a time-out", got)
	}
}

func TestAClientThatGoesLeavesTheQueue(t *testing.T) {
	o, asked, gate := gated(t)
	l := startLab(t, labOptions{}, limited("per_backend: 1", o.addr))
	first, second := l.dial(), l.dial()
	first.say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
	<-asked
	second.say("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
	l.until(func() bool { return l.pending() == 1 })
	second.Close()
	l.until(func() bool { return l.pending() == 0 })
	gate <- struct{}{}
	first.response().want(t, "200", "ok")
	if got := l.pendingOutcomes(); got["gone"] != 1 {
		t.Errorf("got %v, want one gone", got)
	}
}

// Room that one thread leaves may be another's to take.
func TestThreadsShareTheRoomAtABackend(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{threads: 3}, limited("per_backend: 2, connect_timeout: 10s", o.addr))
	var clients sync.WaitGroup
	for range 30 {
		c := l.dial()
		clients.Go(func() {
			for range 50 {
				if r := c.get("/"); r.body != "ok" {
					t.Errorf("got %q %q", r.status, r.body)
					return
				}
			}
		})
	}
	clients.Wait()
	if n := l.pending(); n != 0 {
		t.Errorf("%d wait still", n)
	}
	if got := l.pendingOutcomes(); got["served"] == 0 || got["timeout"]+got["full"]+got["gone"] > 0 {
		t.Errorf("got %v, want all of those that waited served", got)
	}
}

// A body behind the answer to HEAD, even when it comes late, is nobody's answer.
func TestALateBodyAfterHEADIsNobodysAnswer(t *testing.T) {
	late := make(chan *peer, 1)
	o := startOrigin(t, func(c *peer) {
		for {
			switch head := c.request(); {
			case head == "":
				return
			case strings.HasPrefix(head, "HEAD "):
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")
				late <- c
			default:
				c.say(ok)
			}
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.dial()
	c.say("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").head()
	poison := <-late
	c.get("/at-once").want(t, "200", "ok")
	poison.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
	for range 20 {
		c.get("/after").want(t, "200", "ok")
	}
}

func (l *lab) pending() (n int64) {
	for _, e := range *l.proxy.endpointList.Load() {
		n += e.pending.Load()
	}
	return n
}

func (l *lab) until(f func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatal("it does not happen")
		}
	}
}

// A TCP backend has as many connections as it may have; others wait, or are
// given to somebody else.
func TestTCPConnectionsWaitForRoomAtTheirBackend(t *testing.T) {
	for _, limits := range []string{"per_backend: 1", "requests: 1"} {
		o := startOrigin(t, func(c *peer) { c.say("hello\n"); c.rest() })
		l := startLab(t, labOptions{}, strings.Replace(tcpTo(o.addr), "backends:", "connections: { "+limits+", pending: 1 }, backends:", 1))
		first, second := l.dial(), l.dial()
		if got := first.line(); got != "hello" {
			t.Fatalf("%s: got %q", limits, got)
		}
		l.until(func() bool { return l.pending() == 1 })
		l.dial().ended(t) // no place in the queue
		first.Close()
		if got := second.line(); got != "hello" {
			t.Errorf("%s: who waited got %q", limits, got)
		}
		third := l.dial()
		l.until(func() bool { return l.pending() == 1 })
		third.Close() // does not wait
		second.Close()
		l.until(func() bool { return l.pending() == 0 && l.proxy.Stats().Connections == 0 })
		on(l, func() {})
		if b := l.proxy.Stats().Backends[0]; b.Active != 0 || b.Connections != 0 {
			t.Errorf("%s: %+v is left", limits, b)
		}
		if got := l.pendingOutcomes(); got["served"] < 1 || got["full"] == 0 {
			t.Errorf("%s: %v", limits, got)
		}
	}
}

func TestATCPConnectionWaitsOnlySoLong(t *testing.T) {
	o := startOrigin(t, func(c *peer) { c.say("hello\n"); c.rest() })
	l := startLab(t, labOptions{}, strings.Replace(tcpTo(o.addr), "backends:", "connections: { per_backend: 1, connect_timeout: 100ms }, backends:", 1))
	l.dial().line()
	l.dial().ended(t)
	if got := l.pendingOutcomes(); got["timeout"] != 1 {
		t.Errorf("got %v", got)
	}
}

// The balancer that goes by latency knows how long a TCP backend takes to accept.
func TestEWMAHearsOfTCPBackends(t *testing.T) {
	o := startOrigin(t, func(c *peer) { c.say("hello\n"); c.rest() })
	l := startLab(t, labOptions{}, strings.Replace(tcpTo(o.addr, deadPort(t)), "backends:", "balance: ewma, backends:", 1))
	for range 20 {
		if got := l.dial().line(); got != "hello" {
			t.Fatalf("got %q", got)
		}
	}
	v := l.proxy.view.Load()
	good, bad := v.byName["app"].Backends[0].load, v.byName["app"].Backends[1].load
	on(l, func() {
		now := l.proxy.threads[0].loop.Now()
		if g, b := good.latency.Seconds(now), bad.latency.Seconds(now); g == 0 || bad.failures.Load() > 0 && b < g {
			t.Errorf("latency of the good one %v, of the dead one %v", g, b)
		}
	})
	if n := bad.failures.Load(); n > 10 {
		t.Errorf("the dead one was tried %d times of 20", n)
	}
}

// Connections of one age would all end in one moment.
func TestMaxAgeIsSpread(t *testing.T) {
	o := startOrigin(t, func(c *peer) { c.rest() })
	l := startLab(t, labOptions{}, limited("max_age: 100s", o.addr))
	b := l.proxy.view.Load().byName["app"].Backends[0]
	seen := map[time.Duration]bool{}
	for range 50 {
		on(l, func() {
			x := l.proxy.threads[0].exchange(copySink{})
			x.session.Request = &Request{}
			c, err := l.proxy.threads[0].dialH1(x, b)
			if err != nil {
				t.Error(err)
				return
			}
			if c.maxAge < 90*time.Second || c.maxAge > 100*time.Second {
				t.Errorf("%v of 100s", c.maxAge)
			}
			seen[c.maxAge] = true
			c.close()
		})
	}
	if len(seen) < 40 {
		t.Errorf("%d ages of 50", len(seen))
	}
}
