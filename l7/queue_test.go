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
