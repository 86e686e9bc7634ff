package l7

import (
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/balance"
)

// record is what requests tell of a backend, for its pool's balancer and judge.
// Like load it outlives generations.
type record struct {
	answers histogram       // how long they took to begin
	latency balance.Latency // kept where the balancer looks at it
	streak  streak          // kept where there is a judge
}

// streak counts failures in a row.
type streak struct{ n atomic.Int32 }

func (s *streak) more() int32  { return s.n.Add(1) }
func (s *streak) count() int32 { return s.n.Load() }

func (s *streak) end() {
	if s.n.Load() != 0 { // else no thread has to fetch the line to write it
		s.n.Store(0)
	}
}

// failureLatency is what a failed attempt counts as at least: a backend that
// refuses at once is not a fast one.
const failureLatency = time.Second

// observe is told of a response's head.
func (x *exchange) observe(res *Response) {
	b := x.session.Backend
	b.load.answers.observe(x.answered - x.dialed)
	b.heard(x.answered, x.answered-x.dialed)
	failed := res.Status >= 500 || b.pool.Config.Protocol == lb.GRPC && res.Header.Get("grpc-status") == "14"
	if failed {
		b.load.failed()
	}
	b.judge(x.thread, failed)
}

// observeFailure is told of an attempt that brought no whole response. What the
// client or we ourselves are to blame for says nothing of the backend.
func (x *exchange) observeFailure(e *Error) {
	if e.Source != FromUpstream {
		return
	}
	b, now := x.session.Backend, x.thread.loop.Now()
	b.heard(now, max(now-x.dialed, failureLatency))
	b.judge(x.thread, true)
}

func (b *Backend) heard(now, took time.Duration) {
	if b.pool.timed {
		b.load.latency.Observe(now, took)
	}
}

// judge counts failures in a row, and calls the pool's judge when there are too
// many. A backend that is well costs one read.
func (b *Backend) judge(t *thread, failed bool) {
	limit := b.pool.streak
	switch {
	case limit == 0:
	case !failed:
		b.load.streak.end()
	case b.load.streak.more() == limit:
		go t.proxy.judge(b.id.Pool) // once per streak: it takes a lock that no loop waits for
	}
}

// judges decide, pool by pool, who is ejected. They are guarded by Proxy.mu.
type judges struct {
	of      map[string]*judge
	ejected map[lb.BackendID]*lb.Ejection // nobody changes it: each verdict makes another
}

type judge struct {
	balance.Outliers
	limit int32
	timer *time.Timer
}

// set gives every pool with a policy its judge.
func (j *judges) set(p *Proxy, s *Snapshot) {
	was := j.of
	j.of = map[string]*judge{}
	for _, pool := range s.pools {
		policy := pool.Config.Outlier
		if policy == nil {
			continue
		}
		one := was[pool.Name()]
		if one == nil {
			name := pool.Name()
			one = &judge{timer: time.AfterFunc(time.Hour, func() { p.judge(name) })}
			one.timer.Stop()
		}
		delete(was, pool.Name())
		one.limit = int32(policy.Consecutive5xx)
		names := make([]string, len(pool.Backends))
		for i, b := range pool.Backends {
			names[i] = b.Address()
		}
		one.Set(balance.Policy{Interval: policy.Interval, Eject: policy.Eject, Most: float64(policy.MaxEjected)}, names)
		j.of[pool.Name()] = one
	}
	for _, gone := range was {
		gone.timer.Stop()
	}
	j.list()
}

// list makes the map of who is ejected.
func (j *judges) list() {
	j.ejected = map[lb.BackendID]*lb.Ejection{}
	for pool, one := range j.of {
		for _, e := range one.Ejected() {
			j.ejected[lb.BackendID{Pool: pool, Address: e.Name}] = &lb.Ejection{Reason: lb.Outlier, Since: e.Since, Until: e.Until, Times: e.Times}
		}
	}
}

// judge looks at a pool: at who fails now, and at whose time is over.
func (p *Proxy) judge(pool string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.judges.of[pool]
	if one == nil {
		return
	}
	load := func(address string) *load { return p.loads[lb.BackendID{Pool: pool, Address: address}] }
	now := time.Now()
	ejected, back := one.Update(now, func(address string) bool { return load(address).streak.count() >= one.limit })
	for _, address := range ejected {
		load(address).streak.end()
		p.threads[0].tally.event("lbd_ejections_total", "pool", pool, "reason", string(lb.Outlier))
		p.log.Warn("backend ejected", "backend", pool+"/"+address, "reason", lb.Outlier)
	}
	for _, address := range back {
		load(address).streak.end()
		p.rise(lb.BackendID{Pool: pool, Address: address}, now)
		p.log.Info("backend back from ejection", "backend", pool+"/"+address)
	}
	one.timer.Stop()
	if next := one.Next(); !next.IsZero() {
		one.timer.Reset(time.Until(next))
	}
	if len(ejected)+len(back) > 0 {
		p.judges.list()
		p.switchView()
	}
}
