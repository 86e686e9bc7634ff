package l7

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/balance"
)

// overlay is what a view adds to a snapshot: what changes without it.
type overlay struct {
	state   lb.State
	ejected map[lb.BackendID]*lb.Ejection
	risen   map[lb.BackendID]time.Time
	now     time.Time
	old     *view // whose balancers go on if nothing changed for them; nil: none
}

// view is a snapshot with the state of its backends: what one request sees.
type view struct {
	*Snapshot
	choices  []choice // by Pool.index
	draining bool
	leaving  map[string]bool // listeners that drain
	now      time.Time
	again    time.Duration // weights change by then; 0: they do not
}

// choice is what a pool's balancer chooses among now.
type choice struct {
	backends   []*Backend
	candidates []balance.Candidate
	balancer   balance.Balancer
	kind       string
	hashes     bool
	panicking  bool // health is ignored
}

func newView(s *Snapshot, o overlay) (*view, error) {
	v := &view{Snapshot: s, draining: o.state.Draining, leaving: o.state.Listeners, now: o.now}
	for _, pool := range s.pools {
		c, again, err := newChoice(pool, &o)
		if err != nil {
			return nil, fmt.Errorf("pool %s: %w", pool.Name(), err)
		}
		v.choices = append(v.choices, c)
		if again > 0 && (v.again == 0 || again < v.again) {
			v.again = again
		}
	}
	return v, nil
}

// newChoice takes the backends that are up; the backups if there are none. If
// too few are up and the pool has a panic threshold, the backups help, or without
// them health is ignored.
func newChoice(p *Pool, o *overlay) (choice, time.Duration, error) {
	up, backups, all := p.eligible(o)
	c := choice{backends: up, kind: p.Config.Balance, hashes: balance.Hashes(p.Config.Balance)}
	tooFew := float64(len(up)) < float64(p.Config.Panic)*float64(len(all))
	switch {
	case tooFew && len(backups) == 0:
		c.backends, c.panicking = all, true
	case tooFew:
		c.backends = slices.Concat(up, backups)
	case len(up) == 0:
		c.backends = backups
	}
	shares, again := p.ramp(o.risen, o.now)
	c.candidates = make([]balance.Candidate, len(c.backends))
	for i, b := range c.backends {
		weight := b.weight(&o.state)
		if share, rising := shares[b]; rising {
			weight = ramped(weight, share)
		} else if shares != nil {
			weight *= rampScale
		}
		c.candidates[i] = balance.Candidate{Name: b.Address(), Weight: weight, Active: &b.load.active, Latency: &b.load.latency}
	}
	if c.balancer = o.balancer(p.Name(), &c); c.balancer != nil {
		return c, again, nil
	}
	var err error
	c.balancer, err = balance.New(c.kind, c.candidates)
	return c, again, err
}

// balancer finds the one that chooses among the same candidates already: a
// change elsewhere costs no new tables, and turns go on where they were.
func (o *overlay) balancer(pool string, c *choice) balance.Balancer {
	if o.old == nil {
		return nil
	}
	before := o.old.byName[pool]
	if before == nil {
		return nil
	}
	if was := &o.old.choices[before.index]; was.kind == c.kind && slices.Equal(was.candidates, c.candidates) {
		return was.balancer
	}
	return nil
}

// eligible sorts the backends that no operator holds back.
func (p *Pool) eligible(o *overlay) (up, backups, all []*Backend) {
	state := &o.state
	for _, b := range p.Backends {
		down := state.Health[b.id] == lb.Down || o.ejected[b.id] != nil
		switch admin := state.Admin[b.id]; {
		case admin.Drain || admin.Disable || b.weight(state) <= 0:
		case b.Config.Backup && down:
		case b.Config.Backup:
			backups = append(backups, b)
		default:
			all = append(all, b)
			if !down {
				up = append(up, b)
			}
		}
	}
	return up, backups, all
}

// weight is the configured one unless an operator said otherwise.
func (b *Backend) weight(state *lb.State) int {
	if w := state.Admin[b.id].Weight; w != nil {
		return *w
	}
	return b.Config.Weight
}

// asker is who wants a backend.
type asker interface {
	// key is what consistent hashing goes by; false: the asker has none.
	key(c *lb.HashKey) (uint64, bool)
}

// pick chooses a backend that was not tried yet if there is one, and notes it.
func (v *view) pick(t *thread, p *Pool, who asker, tried *[]int) *Backend {
	c := &v.choices[p.index]
	ask := balance.Ask{Random: rand.Uint64(), Now: t.loop.Now(), Tried: *tried}
	if c.hashes {
		var ok bool
		if ask.Key, ok = who.key(p.Config.Hash); !ok {
			ask.Key = ask.Random
		}
	}
	if c.panicking {
		t.tally.event("lbd_panic_picks_total", "pool", p.Name(), "reason", string(lb.PoolPanic))
	}
	i := c.balancer.Pick(ask)
	if i < 0 {
		ask.Tried = nil
		i = c.balancer.Pick(ask)
	}
	if i < 0 {
		return nil
	}
	*tried = append(*tried, i)
	return c.backends[i]
}

// key is the request's: the client's address if the pool does not say.
func (x *exchange) key(c *lb.HashKey) (uint64, bool) {
	value := ""
	switch {
	case c == nil || c.Client:
		return addressKey(x.session.Client()), true
	case c.Header != "":
		value = x.session.Request.Header.Get(c.Header)
	case c.Cookie != "":
		value = cookie(x.session.Request.Header, c.Cookie)
	}
	return balance.Hash(value), value != ""
}

func addressKey(a netip.Addr) uint64 {
	b := a.As16()
	return balance.Hash(b[:])
}

// cookie returns the first value of a cookie, or "".
func cookie(h Header, name string) string {
	for i := range h {
		if !equalFold(h[i].Name, "cookie") {
			continue
		}
		for list := h[i].Value; list != ""; {
			var pair string
			pair, list, _ = strings.Cut(list, ";")
			if k, v, _ := strings.Cut(strings.TrimLeft(pair, " "), "="); k == name && v != "" {
				return v
			}
		}
	}
	return ""
}

func compareIDs(a, b lb.BackendID) int {
	return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Address, b.Address))
}

// openTo counts the open connections to each address.
func (p *Proxy) openTo() map[string]int {
	n := make(map[string]int, len(p.endpoints))
	for key, e := range p.endpoints {
		n[key.address] += int(e.open.Load())
	}
	return n
}
