package l7

import (
	"slices"
	"time"

	"github.com/cirque-lb/lb"
)

// warm makes the connections that pools want to have before they are needed: to
// backends that requests may go to, as many as are missing. The threads take
// turns, for they share what they make. An HTTP/2 connection serves many: each
// thread keeps one.
func (t *thread) warm() {
	v := t.proxy.view.Load()
	if v == nil || t.leaving {
		return
	}
	now := t.loop.Now()
	t.warming = slices.DeleteFunc(t.warming, func(c *clientH1) bool { return c.warmedBy(now) })
	turn := int(now/sweepEvery)%len(t.proxy.threads) == t.index
	for _, p := range v.pools {
		limits := &p.Config.Connections
		if limits.Warm == 0 {
			continue
		}
		for _, b := range v.choices[p.index].backends {
			if p.Config.Protocol != lb.HTTP1 {
				t.warmH2(b.endpoint, limits)
			} else if turn {
				t.warmH1(b.endpoint, limits)
			}
		}
	}
}

func (t *thread) warmH1(e *endpoint, limits *lb.PoolLimits) {
	missing := min(int64(limits.Warm)-e.idle.Load()-e.warming.Load(), int64(limits.PerBackend)-e.open.Load())
	for range missing {
		c := &clientH1{thread: t, endpoint: e, limits: limits, born: t.loop.Now(), maxAge: jittered(limits.MaxAge)}
		if c.dial() != nil {
			return
		}
		e.warming.Add(1)
		t.warming = append(t.warming, c)
	}
}

// warmedBy reports whether nothing is to be waited for any more: it is there,
// it failed, or it took too long.
func (c *clientH1) warmedBy(now time.Duration) bool {
	if c.state == clientConnecting && now-c.born > c.limits.ConnectTimeout {
		c.endpoint.warming.Add(-1)
		c.close()
	}
	return c.state != clientConnecting
}

func (t *thread) warmH2(e *endpoint, limits *lb.PoolLimits) {
	if g := t.h2.groups[e]; g == nil || len(g.conns) == 0 {
		_, _ = t.roomH2(e, limits) // what fails is tried again in a second, or by a request
	}
}
