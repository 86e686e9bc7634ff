package l7

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

func warmed(more, backend string) string { return limited("warm: 3"+more, backend) }

func TestAPoolIsWarmBeforeItIsAsked(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{threads: 2}, warmed("", o.addr))
	l.until(func() bool { return o.conns.Load() == 3 })
	for range 5 {
		l.dial().get("/").want(t, "200", "ok")
	}
	if n := o.conns.Load(); n != 3 {
		t.Errorf("%d connections were made", n)
	}
	o.mu.Lock()
	o.open[0].Close() // one that is lost is made anew
	o.mu.Unlock()
	l.until(func() bool { return o.conns.Load() == 4 })
	on(l, func() {})
	if e := l.proxy.view.Load().byName["app"].Backends[0].endpoint; e.warming.Load() != 0 {
		t.Errorf("%d are still under way", e.warming.Load())
	}
}

func TestWarmingEndsInTimeAndStaysAwayFromWhoIsDown(t *testing.T) {
	silent := startOrigin(t, func(c *peer) { io.Copy(io.Discard, c) })
	document := strings.Replace(warmed(", connect_timeout: 100ms", silent.addr), "connections:", "tls: { insecure: true, server_name: a }, connections:", 1)
	l := startLab(t, labOptions{}, document)
	l.until(func() bool { return silent.conns.Load() > 3 }) // handshakes that never end, given up and tried again
	e := l.proxy.view.Load().byName["app"].Backends[0].endpoint
	l.until(func() bool { return e.warming.Load() <= 3 && e.open.Load() <= 3 })
	dead := startLab(t, labOptions{}, warmed("", deadPort(t)))
	dead.until(func() bool { return dead.count("lbd_upstream_connections_opened_total") > 3 })
	if e := dead.proxy.view.Load().byName["app"].Backends[0].endpoint; e.open.Load() > 3 || e.idle.Load() != 0 {
		t.Errorf("%d open, %d idle", e.open.Load(), e.idle.Load())
	}
}

func TestAnHTTP2PoolIsWarm(t *testing.T) {
	o := startRawOrigin(t, func(r *raw, _ int) {
		for id := r.awaitRequest(); id != 0; id = r.awaitRequest() {
			r.head(id, true, ":status", "200")
		}
	})
	l := startLab(t, labOptions{}, strings.Replace(poolH2("http2", o.addr), "backends:", "connections: { warm: 1 }, backends:", 1))
	l.until(func() bool { return l.count("lbd_upstream_connections_opened_total") == 1 })
	l.dial().get("/").want(t, "200", "")
	if n := l.count("lbd_upstream_connections_opened_total"); n != 1 {
		t.Error(fmt.Sprint(n, " connections"))
	}
}
