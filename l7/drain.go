package l7

import (
	"math/rand/v2"
	"time"

	"github.com/cirque-lb/lb"
)

// idleGrace is how long an idle keep-alive connection may still bring a request
// after a drain began, at most: closing it at once would meet some client's
// request half way.
const idleGrace = 10 * time.Second

// draining reports whether responses tell their clients to go.
func (t *thread) draining(c *client) bool {
	v := t.proxy.view.Load()
	return t.leaving || v.draining || v.drains(c.listener) || t.proxy.memory.level.Load() > memoryFine
}

// drains reports whether a listener does.
func (v *view) drains(listener string) bool {
	if len(v.leaving) == 0 {
		return false
	}
	_, drains := v.leaving[listener]
	return drains
}

// drainListeners tells the clients of listeners to go that did not drain before,
// and closes those whose time is over.
func (p *Proxy) drainListeners(before, now map[string]bool) {
	drain, cut := map[string]bool{}, map[string]bool{}
	for name, over := range now {
		was, drained := before[name]
		drain[name] = !drained
		cut[name] = over && !was
	}
	if len(now) == 0 {
		return
	}
	p.each(func(t *thread) {
		t.clients.each(func(c clientConn) {
			switch name := c.whose().listener; {
			case cut[name]:
				c.cut()
			case drain[name]:
				c.drain()
			}
		})
	})
}

// drain takes who waits, stops accepting and tells the clients to go.
func (t *thread) drain(grace time.Duration) {
	t.leaving, t.grace = true, grace
	for fd, a := range t.listeners {
		a.ln.TakeWaiting()
		t.unlisten(fd)
	}
	t.clients.each(clientConn.drain)
}

// idleGrace is a random part of the grace, so that clients do not all come back
// at once.
func (t *thread) idleGrace() time.Duration {
	return t.grace/2 + time.Duration(rand.Int64N(int64(t.grace/2)+1))
}

// remember and forget keep the list of what is under way.
func (t *thread) remember(x *exchange) {
	x.place = len(t.active)
	t.active = append(t.active, x)
}

func (t *thread) forget(x *exchange) {
	last := len(t.active) - 1
	moved := t.active[last]
	t.active[x.place], moved.place = moved, x.place
	t.active[last] = nil
	t.active = t.active[:last]
}

// cutBackends ends the attempts at backends that an operator disabled, or whose
// drain is overdue.
func (t *thread) cutBackends(disabled map[lb.BackendID]bool) {
	for i := len(t.active) - 1; i >= 0; i-- {
		if i >= len(t.active) {
			continue
		}
		x := t.active[i]
		if (x.up != nil || x.queued != nil) && disabled[x.session.Backend.id] {
			if x.up != nil {
				x.up.abort()
			}
			x.upstreamFailed(&Error{Status: 503, Reason: lb.NoHealthyBackend, Sent: true})
		}
	}
}

// cutProxied ends the proxied connections and tunnels to backends that were
// disabled just now.
func (t *thread) cutProxied(disabled map[lb.BackendID]bool) {
	if len(disabled) == 0 {
		return
	}
	t.clients.each(func(c clientConn) {
		if p, ok := c.(*tcpProxy); ok && p.backend != nil && disabled[p.backend.id] {
			p.cut()
		}
	})
}

// cutDown ends an exchange whose connection is cut.
func (x *exchange) cutDown() {
	e := &Error{Status: 503, Reason: lb.Draining}
	if x.hold(heldEvent{kind: heldGone, err: e}) {
		return
	}
	x.finish(e)
}
