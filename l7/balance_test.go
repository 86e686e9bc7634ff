package l7

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/balance"
)

// counting starts origins that say who they are.
func counting(t testing.TB, n int) (origins []*origin, served []*atomic.Int64) {
	for i := range n {
		count := new(atomic.Int64)
		served = append(served, count)
		origins = append(origins, startOrigin(t, func(c *peer) {
			for c.request() != "" {
				count.Add(1)
				c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i))
			}
		}))
	}
	return origins, served
}

// balanced is a configuration with these keys in its pool.
func balanced(pool string, origins ...*origin) string {
	var addrs []string
	for _, o := range origins {
		addrs = append(addrs, o.addr)
	}
	return strings.Replace(routed("", addrs...), "app: {", "app: { "+pool+",", 1)
}

func TestEveryBalancerServes(t *testing.T) {
	origins, served := counting(t, 3)
	for _, name := range []string{"round_robin", "least_request", "random", "ewma", "maglev", "ring_hash"} {
		keys := "balance: " + name
		if balance.Hashes(name) {
			keys += ", hash: { header: x-user }"
		}
		c := startLab(t, labOptions{}, balanced(keys, origins...)).dial()
		for _, n := range served {
			n.Store(0)
		}
		for i := range 120 {
			c.say(fmt.Sprintf("GET / HTTP/1.1\r\nHost: a\r\nX-User: %d\r\n\r\n", i)).response()
		}
		for i, n := range served {
			if n.Load() < 10 && name != "ewma" { // which prefers the fastest, by however little
				t.Errorf("%s: backend %d served %d of 120", name, i, n.Load())
			}
		}
	}
}

func TestRequestsOfOneKeyGoToOneBackend(t *testing.T) {
	origins, _ := counting(t, 5)
	for _, c := range []struct{ hash, field string }{
		{"header: x-user", "X-User: %d"},
		{"cookie: sid", "Cookie: a=b; sid=%d; sidx=c"},
		{"client: true", "X-Forwarded-For: 203.0.113.%d"},
	} {
		for _, name := range []string{"maglev", "ring_hash"} {
			l := startLab(t, labOptions{threads: 2}, "trusted: [127.0.0.0/8]\n"+balanced("balance: "+name+", hash: { "+c.hash+" }", origins...))
			owners := map[string]bool{}
			for user := range 40 {
				var first string
				for range 3 {
					got := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n" + fmt.Sprintf(c.field, user) + "\r\n\r\n").response().body
					if first == "" {
						first = got
					} else if got != first {
						t.Fatalf("%s by %s: user %d went to %s and to %s", name, c.hash, user, first, got)
					}
				}
				owners[first] = true
			}
			if len(owners) != len(origins) {
				t.Errorf("%s by %s: 40 users have only the backends %v", name, c.hash, owners)
			}
		}
	}
}

func TestRequestsWithoutAKeySpread(t *testing.T) {
	origins, served := counting(t, 3)
	c := startLab(t, labOptions{}, balanced("balance: maglev, hash: { cookie: sid }", origins...)).dial()
	for range 60 {
		c.get("/")
	}
	for i, n := range served {
		if n.Load() < 5 {
			t.Errorf("backend %d served %d of 60", i, n.Load())
		}
	}
}

// A change that does not touch a pool keeps its balancer: Maglev's table is not
// made again for every health check of others.
func TestABalancerOutlivesChangesElsewhere(t *testing.T) {
	origins, _ := counting(t, 2)
	document := balanced("balance: maglev", origins...) + "  other: { backends: [\"127.0.0.1:1\"] }\n"
	l := startLab(t, labOptions{}, document)
	balancer := func() balance.Balancer { v := l.proxy.view.Load(); return v.choices[v.byName["app"].index].balancer }
	first := balancer()
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{{Pool: "other", Address: "127.0.0.1:1"}: lb.Down}})
	l.configure(document + "  third: { backends: [] }\n")
	if balancer() != first {
		t.Error("the balancer was made again for nothing")
	}
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{{Pool: "app", Address: origins[0].addr}: lb.Down}})
	if balancer() == first {
		t.Error("the balancer does not know that a backend is down")
	}
}

func TestPanicIgnoresHealth(t *testing.T) {
	origins, served := counting(t, 4)
	l := startLab(t, labOptions{}, balanced("panic: 50%", origins...))
	down := func(n int) {
		state := lb.State{Health: map[lb.BackendID]lb.Health{}}
		for _, o := range origins[:n] {
			state.Health[lb.BackendID{Pool: "app", Address: o.addr}] = lb.Down
		}
		l.proxy.SetState(state)
		for _, s := range served {
			s.Store(0)
		}
		c := l.dial()
		for range 40 {
			if r := c.get("/"); !strings.HasPrefix(r.status, "HTTP/1.1 200") {
				t.Errorf("got %s", r.status)
			}
		}
	}
	down(2) // half of them are well: that will do
	if served[0].Load() != 0 || l.count("lbd_panic_picks_total") != 0 {
		t.Errorf("with half up: %d requests at one that is down, %v picks in panic", served[0].Load(), l.count("lbd_panic_picks_total"))
	}
	down(3)
	if served[0].Load() != 10 || l.count("lbd_panic_picks_total") != 40 {
		t.Errorf("with a quarter up: %d requests at one that is down, %v picks in panic", served[0].Load(), l.count("lbd_panic_picks_total"))
	}
}

func TestBackupsHelpBeforeAPanic(t *testing.T) {
	origins, served := counting(t, 3)
	l := startLab(t, labOptions{}, fmt.Sprintf(`
listeners: { web: { bind: "127.0.0.1:1" } }
routes: [ { pool: app } ]
pools: { app: { panic: 60%%, backends: [%q, %q, { address: %q, backup: true }] } }
`, origins[0].addr, origins[1].addr, origins[2].addr))
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{{Pool: "app", Address: origins[0].addr}: lb.Down}})
	c := l.dial()
	for range 10 {
		c.get("/")
	}
	if served[0].Load() != 0 || served[1].Load() != 5 || served[2].Load() != 5 {
		t.Errorf("got %d, %d, %d; want none, half, half", served[0].Load(), served[1].Load(), served[2].Load())
	}
}

// weights lists the weights that a pool's balancer goes by.
func (l *lab) weights(pool string) (out []int) {
	v := l.proxy.view.Load()
	for _, c := range v.choices[v.byName[pool].index].candidates {
		out = append(out, c.Weight)
	}
	return out
}

func TestASlowStartBeginsWithATenth(t *testing.T) {
	origins, _ := counting(t, 2)
	document := balanced("slow_start: 1h", origins...)
	l := startLab(t, labOptions{}, document)
	want := func(when, weights string) {
		t.Helper()
		if got := fmt.Sprint(l.weights("app")); got != weights {
			t.Errorf("%s: weights %s, want %s", when, got, weights)
		}
	}
	want("at first all are new", "[1 1]")
	id := lb.BackendID{Pool: "app", Address: origins[0].addr}
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{id: lb.Down}})
	want("without the first", "[1]")
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{id: lb.Up}})
	want("up again", "[10 100]")
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{id: lb.Up}, Admin: map[lb.BackendID]lb.Admin{{Pool: "app", Address: origins[1].addr}: {Drain: true}}})
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{id: lb.Up}})
	want("the other was drained", "[10 10]")

	l = startLab(t, labOptions{}, document)
	third, _ := counting(t, 1)
	l.configure(balanced("slow_start: 1h", append(origins, third...)...))
	want("one is added", "[100 100 10]")
}

func TestASlowStartEnds(t *testing.T) {
	origins, _ := counting(t, 2)
	l := startLab(t, labOptions{}, balanced("slow_start: 50ms", origins...))
	id := lb.BackendID{Pool: "app", Address: origins[0].addr}
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{id: lb.Down}})
	l.proxy.SetState(lb.State{})
	for deadline := time.Now().Add(patience); fmt.Sprint(l.weights("app")) != "[1 1]"; {
		if time.Now().After(deadline) {
			t.Fatalf("weights %v", l.weights("app"))
		}
	}
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	if len(l.proxy.risen) != 0 {
		t.Errorf("%d are remembered", len(l.proxy.risen))
	}
}

// ejected says who is, as the supervisor hears of it.
func (l *lab) ejected() (out []string) {
	for _, b := range l.proxy.Stats().Backends {
		if b.Ejected != nil {
			out = append(out, fmt.Sprint(b.ID.Address, " ", b.Ejected.Reason, " ", b.Ejected.Times))
		}
	}
	return out
}

// settled waits until the judge has come to a verdict.
func (l *lab) judged(want int) []string {
	l.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if got := l.ejected(); len(got) == want {
			return got
		} else if time.Now().After(deadline) {
			l.t.Fatalf("ejected: %v, want %d", got, want)
		}
	}
}

func TestABackendThatFailsIsEjectedAndComesBack(t *testing.T) {
	var ill atomic.Bool
	ill.Store(true)
	bad := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			if ill.Load() {
				c.say("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
			} else {
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")
			}
		}
	})
	good := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, balanced("outlier: { consecutive_5xx: 3, interval: 100ms, eject: 1s, max_ejected: 50% }", bad, good))
	c, failures := l.dial(), 0
	for range 12 {
		if strings.HasPrefix(c.get("/").status, "HTTP/1.1 500") {
			failures++
		}
		if failures == 3 {
			l.judged(1)
		}
	}
	if got := l.judged(1); failures != 3 || got[0] != bad.addr+" outlier 1" {
		t.Errorf("%d failures, then ejected: %v", failures, got)
	}
	ill.Store(false)
	l.judged(0)
	for deadline := time.Now().Add(patience); c.get("/").body != "well"; {
		if time.Now().After(deadline) {
			t.Fatal("it gets no requests")
		}
	}
	if n := l.count("lbd_ejections_total"); n != 1 {
		t.Errorf("%v ejections counted, want 1", n)
	}
}

func TestABackendThatRefusesIsEjected(t *testing.T) {
	good := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, balanced("outlier: { consecutive_5xx: 2, eject: 1h }", &origin{addr: "127.0.0.1:1"}, good))
	c := l.dial()
	for range 4 {
		c.get("/").want(t, "200", "ok") // the other one is tried
	}
	l.judged(1)
	dialed := l.count("lbd_retries_total")
	for range 10 {
		c.get("/").want(t, "200", "ok")
	}
	if n := l.count("lbd_retries_total"); n != dialed {
		t.Errorf("%v more retries", n-dialed)
	}
}

func TestEjectionEndsWithItsPolicy(t *testing.T) {
	good := startOrigin(t, answering(ok))
	refusing := &origin{addr: "127.0.0.1:1"}
	l := startLab(t, labOptions{}, balanced("outlier: { consecutive_5xx: 1, eject: 1h }", refusing, good))
	c := l.dial()
	for range 2 {
		c.get("/")
	}
	l.judged(1)
	l.configure(balanced("outlier: { consecutive_5xx: 1, eject: 2h }", refusing, good))
	l.judged(1) // another policy does not pardon
	l.configure(balanced("slow_start: 0s", refusing, good))
	l.judged(0)
	l.configure(balanced("outlier: { consecutive_5xx: 1, eject: 1h }", refusing, good))
	l.judged(0)
}

func TestWhatIsOurFaultEjectsNobody(t *testing.T) {
	reached, release := make(chan bool), make(chan bool)
	slow := startOrigin(t, func(c *peer) {
		for c.request() != "" {
			reached <- true
			<-release
			c.say(ok)
		}
	})
	l := startLab(t, labOptions{}, balanced("connections: { per_backend: 1 }, outlier: { consecutive_5xx: 1, max_ejected: 100% }", slow, &origin{addr: "127.0.0.1:1"}))
	l.proxy.SetState(lb.State{Health: map[lb.BackendID]lb.Health{{Pool: "app", Address: "127.0.0.1:1"}: lb.Down}})
	first := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-reached
	l.dial().get("/").want(t, "503", "503 Service Unavailable: overload\n")
	left := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	left.Close()
	close(release)
	first.response().want(t, "200", "ok")
	b := l.proxy.view.Load().byName["app"].Backends[0]
	if n := b.load.streak.count(); n != 0 {
		t.Errorf("%d failures are the backend's", n)
	}
}

func TestATCPBackendThatRefusesIsEjected(t *testing.T) {
	echo := startOrigin(t, func(c *peer) { c.say(c.line() + "\n") })
	l := startLab(t, labOptions{}, fmt.Sprintf(`
listeners: { web: { bind: "127.0.0.1:1", protocol: tcp, pool: app } }
pools: { app: { balance: maglev, outlier: { consecutive_5xx: 2, eject: 1h }, backends: ["127.0.0.1:1", %q] } }
`, echo.addr))
	for range 10 {
		if got := l.dial().say("hi\n").line(); got != "hi" {
			t.Fatalf("got %q", got)
		}
	}
	// The client's address is the key: all went one way, by the dead one or not.
	if l.proxy.Stats().Backends[0].Failures > 0 {
		l.judged(1)
	}
}
