package l7

import (
	"math"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/balance"
)

// rise notes that a backend takes requests again, or for the first time: where
// its pool starts slowly, it gets its weight bit by bit. Call it with mu held.
func (p *Proxy) rise(id lb.BackendID, now time.Time) {
	p.risen[id] = now
}

// riseFrom notes who came up between two states: the health checks found it
// well, or an operator let it back in.
func (p *Proxy) riseFrom(old, new *lb.State, now time.Time) {
	for id, was := range old.Health {
		if was == lb.Down && new.Health[id] != lb.Down {
			p.rise(id, now)
		}
	}
	for id, was := range old.Admin {
		if is := new.Admin[id]; (was.Drain || was.Disable) && !is.Drain && !is.Disable {
			p.rise(id, now)
		}
	}
}

// riseNew notes the backends that a snapshot adds to the pools of another.
func (p *Proxy) riseNew(old, new *Snapshot, now time.Time) {
	for _, pool := range new.pools {
		before := old.byName[pool.Name()]
		if before == nil {
			continue // all of it is new: nobody is ahead
		}
		known := map[string]bool{}
		for _, b := range before.Backends {
			known[b.Address()] = true
		}
		for _, b := range pool.Backends {
			if !known[b.Address()] {
				p.rise(b.id, now)
			}
		}
	}
}

// rampSteps is into how many steps a slow start is cut.
const rampSteps = 20

// ramp returns how much of its weight each of a pool's backends gets now, and
// when that changes; nil: all get all of it.
func (p *Pool) ramp(risen map[lb.BackendID]time.Time, now time.Time) (shares map[*Backend]float64, again time.Duration) {
	window := p.Config.SlowStart
	if window == 0 || len(risen) == 0 {
		return nil, 0
	}
	for _, b := range p.Backends {
		since, rising := risen[b.id]
		if !rising {
			continue
		}
		if share := balance.Ramp(now.Sub(since), window); share < 1 {
			if shares == nil {
				shares = map[*Backend]float64{}
			}
			shares[b] = share
			again = window / rampSteps
		}
	}
	return shares, again
}

// rampScale is what weights are multiplied with while somebody has a part of
// its own: that of a weight of one, too, must be a whole number.
const rampScale = 100

func ramped(weight int, share float64) int {
	return int(math.Ceil(float64(weight) * rampScale * share))
}

// planRamp looks again when a slow start goes on, and forgets those that are
// over. Call it with mu held.
func (p *Proxy) planRamp(v *view) {
	for id, since := range p.risen {
		if pool := v.byName[id.Pool]; pool == nil || v.now.Sub(since) >= pool.Config.SlowStart {
			delete(p.risen, id)
		}
	}
	if v.again == 0 {
		return
	}
	if p.ramping == nil {
		p.ramping = time.AfterFunc(v.again, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.switchView()
		})
		return
	}
	p.ramping.Reset(v.again)
}
