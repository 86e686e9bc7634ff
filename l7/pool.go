package l7

import (
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// Pool is a pool as it is built into a snapshot.
type Pool struct {
	Config   *lb.Pool
	Backends []*Backend

	index  int // in the snapshot
	budget *retryBudget
	timed  bool  // the balancer looks at latencies
	streak int32 // failures in a row that call the judge; 0: there is none
}

// Name returns the pool's name.
func (p *Pool) Name() string { return p.Config.Name }

// Backend is one server of a pool, as it is built into a snapshot.
type Backend struct {
	Config *lb.Backend

	id       lb.BackendID
	pool     *Pool
	endpoint *endpoint
	load     *load
}

// Address returns the backend's address.
func (b *Backend) Address() string { return b.Config.Address }

// ID returns the backend's identity.
func (b *Backend) ID() lb.BackendID { return b.id }

// load counts what one worker does with a backend, over all generations and
// threads.
type load struct {
	active   atomic.Int64
	requests atomic.Uint64
	failures atomic.Uint64

	record
}

func (l *load) begin()  { l.active.Add(1); l.requests.Add(1) }
func (l *load) end()    { l.active.Add(-1) }
func (l *load) failed() { l.failures.Add(1) }

const (
	budgetWindow = 10 * time.Second
	budgetFloor  = 10 // retries per window that are always allowed
)

// retryBudget bounds a pool's retries to a share of its requests, counted in
// windows of ten seconds: the last one and the current.
type retryBudget struct {
	window   atomic.Int64 // number of the current window
	requests [2]atomic.Int64
	retries  atomic.Int64 // in the current window
}

// turn starts a new window when it is time.
func (b *retryBudget) turn(l *loop.Loop) int64 {
	w := int64(l.Now() / budgetWindow) // all loops' clocks began at once
	if old := b.window.Load(); old != w && b.window.CompareAndSwap(old, w) {
		b.requests[w&1].Store(0)
		if w-old > 1 {
			b.requests[(w+1)&1].Store(0)
		}
		b.retries.Store(0)
	}
	return w
}

// request counts a request.
func (b *retryBudget) request(l *loop.Loop) { b.requests[b.turn(l)&1].Add(1) }

// retry takes a retry from the budget, if there is one left.
func (b *retryBudget) retry(l *loop.Loop, share float64) bool {
	b.turn(l)
	requests := b.requests[0].Load() + b.requests[1].Load()
	allowed := max(budgetFloor, int64(share*float64(requests)))
	if b.retries.Add(1) <= allowed {
		return true
	}
	b.retries.Add(-1)
	return false
}
