package l7

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// Whatever tells two connections apart is in the key of the pool.
func TestWhatMakesConnectionsInterchangeable(t *testing.T) {
	p, err := New(Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.closeLoops() })
	files := map[string][]byte{}
	for _, name := range []string{"ca", "cb"} {
		a := newAuthority(name)
		files[name+".pem"] = a.PEM()
		files["c"+name+".pem"], files["c"+name+".key"] = a.issue("lb")
	}
	pools := []string{
		"", "bind: 127.0.0.2", "bind: 127.0.0.3", "proxy_protocol: v2", "protocol: http2", "protocol: grpc",
		"tls: { insecure: true }", "tls: { server_name: a.example, insecure: true }", "tls: { ca: ca.pem, server_name: a.example }",
		"tls: { ca: ca.pem, server_name: b.example }", "tls: { ca: cb.pem, server_name: a.example }",
		"tls: { ca: ca.pem, server_name: a.example, cert: cca.pem, key: cca.key }",
		"tls: { ca: ca.pem, server_name: a.example, cert: ccb.pem, key: ccb.key }",
		"protocol: http2, tls: { ca: ca.pem, server_name: a.example }",
	}
	document := "listeners: { web: { bind: \":80\" } }\nroutes: [ { pool: p0 } ]\npools:\n"
	for i, keys := range pools {
		if keys != "" {
			keys += ", "
		}
		document += fmt.Sprintf("  p%d: { %sbackends: [\"127.0.0.1:1\"] }\n", i, keys)
	}
	document += "  same: { balance: maglev, slow_start: 1s, backends: [ { address: \"127.0.0.1:1\", weight: 7 } ] }\n"
	prepare := func() *Snapshot {
		config, err := lb.Parse([]byte(document), lb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return prepared(t, p, config, files)
	}
	s := prepare()
	seen := map[*endpoint]string{}
	for i, keys := range pools {
		e := s.byName[fmt.Sprintf("p%d", i)].Backends[0].endpoint
		if other, there := seen[e]; there {
			t.Errorf("{ %s } shares connections with { %s }", keys, other)
		}
		seen[e] = keys
	}
	if s.byName["same"].Backends[0].endpoint != s.byName["p0"].Backends[0].endpoint {
		t.Error("balancing and weight keep pools from sharing connections")
	}
	a := newAuthority("cd")
	files["ca.pem"] = a.PEM()
	if e := prepare().byName["p8"].Backends[0].endpoint; seen[e] != "" {
		t.Error("connections that another CA vouched for are used on")
	}
}

// The connection that served last serves next, the others grow old.
func TestIdleConnectionsAreAStackThatGrowsOldFromBelow(t *testing.T) {
	p, err := New(Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.closeLoops() })
	th := p.threads[0]
	e, err := newEndpoint(endpointKey{address: "127.0.0.1:1", plain: true}, 1)
	if err != nil {
		t.Fatal(err)
	}
	limits := &lb.PoolLimits{Idle: 3, IdleTimeout: time.Minute, MaxAge: time.Hour}
	var all []*clientH1
	for range 3 {
		c := &clientH1{thread: th, endpoint: e, limits: limits, maxAge: limits.MaxAge, state: clientIdle}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[0])
		if err := c.conn.Init(th.loop, fds[1], c); err != nil {
			t.Fatal(err)
		}
		c.t = &c.conn
		e.open.Add(1)
		all = append(all, c)
	}
	for _, c := range all {
		e.put(c, limits)
	}
	for i := 2; i >= 0; i-- {
		if got := e.take(th, bound{}); got != all[i] {
			t.Fatalf("%d was not the next", i)
		}
	}
	for _, c := range all {
		e.put(c, limits)
	}
	all[0].idleSince -= limits.IdleTimeout + 1
	all[1].born -= limits.MaxAge + 1
	e.sweep(th)
	if !all[0].conn.Closed() || !all[1].conn.Closed() || all[2].conn.Closed() || e.idle.Load() != 1 || e.open.Load() != 1 {
		t.Errorf("closed: %v %v %v, %d idle", all[0].conn.Closed(), all[1].conn.Closed(), all[2].conn.Closed(), e.idle.Load())
	}
	if e.take(th, bound{source: netip.MustParseAddrPort("192.0.2.1:1")}) != nil {
		t.Error("a connection that is another client's was given away")
	}
	limits.Idle = 1
	e.put(&clientH1{thread: th, endpoint: e, limits: limits, state: clientClosed, t: &all[2].conn}, limits)
	if e.idle.Load() != 1 {
		t.Errorf("%d are kept idle", e.idle.Load())
	}
}

func TestASplitIsByWeight(t *testing.T) {
	a, b, c := startOrigin(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")), startOrigin(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb")),
		startOrigin(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc"))
	l := startLab(t, labOptions{}, fmt.Sprintf(`
listeners: { web: { bind: ":80" } }
routes: [ { split: { a: 90, b: 10, c: 0 } } ]
pools: { a: { backends: [%q] }, b: { backends: [%q] }, c: { backends: [%q] } }
`, a.addr, b.addr, c.addr))
	const asked = 2000
	got := map[string]int{}
	for p := l.dial(); got["a"]+got["b"] < asked && got["c"] == 0; {
		got[p.get("/").body]++
	}
	if got["b"] < asked/10-70 || got["b"] > asked/10+70 || got["c"] > 0 { // five standard deviations
		t.Errorf("of %d: %v", asked, got)
	}
}

func TestTheRetryBudgetIsAShareOfManyRequests(t *testing.T) {
	p, err := New(Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.closeLoops() })
	var b retryBudget
	l := p.threads[0].loop
	for range 1000 {
		b.request(l)
	}
	n := 0
	for b.retry(l, 0.2) {
		n++
	}
	if n != 200 {
		t.Errorf("%d retries of 1000 requests", n)
	}
}

func TestADateIsAddedWhenThereIsNone(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		for head := c.request(); head != ""; head = c.request() {
			more := ""
			if head[:len("GET /dated")] == "GET /dated" {
				more = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
			}
			c.say("HTTP/1.1 200 OK\r\n" + more + "Content-Length: 0\r\n\r\n")
		}
	})
	l := startLab(t, labOptions{}, pool(o.addr))
	c := l.dial()
	if got := field(c.get("/dated").head, "date"); got != "Thu, 01 Jan 1970 00:00:00 GMT" {
		t.Errorf("the backend's date is %q", got)
	}
	at, err := time.Parse(time.RFC1123, field(c.get("/undated").head, "date"))
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("got %v, %v", at, err)
	}
}
