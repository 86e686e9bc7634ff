package l7

import (
	"cmp"
	"fmt"
	"math/rand/v2"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/balance"
)

// view is a snapshot with the state of its backends: what one request sees.
type view struct {
	*Snapshot
	choices  []choice // by Pool.index
	draining bool
}

// choice is what a pool's balancer chooses among now.
type choice struct {
	backends []*Backend
	balancer balance.Balancer
}

func newView(s *Snapshot, state *lb.State) (*view, error) {
	v := &view{Snapshot: s, draining: state.Draining}
	for _, pool := range s.pools {
		c, err := newChoice(pool, state)
		if err != nil {
			return nil, fmt.Errorf("pool %s: %w", pool.Name(), err)
		}
		v.choices = append(v.choices, c)
	}
	return v, nil
}

// newChoice takes the backends that are up; the backups if there are none; and
// whatever its health if too few are up and the pool has a panic threshold.
func newChoice(p *Pool, state *lb.State) (choice, error) {
	up, backups, all := p.eligible(state)
	backends := up
	if len(backends) == 0 {
		backends = backups
	}
	if share := float64(p.Config.Panic); share > 0 && float64(len(up)) < share*float64(len(all)) {
		backends = all
	}
	candidates := make([]balance.Candidate, len(backends))
	for i, b := range backends {
		candidates[i] = balance.Candidate{Name: b.Address(), Weight: b.weight(state), Active: &b.load.active, Latency: &b.load.latency}
	}
	balancer, err := balance.New(p.Config.Balance, candidates)
	return choice{backends, balancer}, err
}

// eligible sorts the backends that no operator holds back.
func (p *Pool) eligible(state *lb.State) (up, backups, all []*Backend) {
	for _, b := range p.Backends {
		down := state.Health[b.id] == lb.Down
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

// pick chooses a backend that was not tried yet if there is one, and notes it.
func (v *view) pick(p *Pool, tried *[]int) *Backend {
	c := &v.choices[p.index]
	ask := balance.Ask{Random: rand.Uint64(), Tried: *tried}
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

func compareIDs(a, b lb.BackendID) int {
	return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Address, b.Address))
}

// openTo counts the open connections to a backend's address.
func (p *Proxy) openTo(id lb.BackendID) int {
	n := 0
	for key, e := range p.endpoints {
		if key.address == id.Address {
			n += int(e.open.Load())
		}
	}
	return n
}
