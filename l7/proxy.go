// Package l7 is the proxy: what happens to a request between a client's
// connection and a backend's.
//
// A Proxy has a fixed number of threads, each one loop that runs to completion:
// read, parse, decide, write. Nothing on a loop blocks. What a request does is
// told by exchange.go, from top to bottom; server_h1.go and client_h1.go are
// the two sides it talks to. The methods of Proxy may be called concurrently.
package l7

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// Options says what a Proxy is made with.
type Options struct {
	Threads int // loops; at least 1
	Filters map[string]Builder
	Access  *os.File // the access log; nil: off
	Log     *slog.Logger
	Flight  []byte // memory for the recorder, FlightSize of it; nil: none
	// Spoil overwrites what an ended request leaves in memory, so that a filter
	// that kept it instead of a copy is found out. It is for tests.
	Spoil bool
}

// Proxy serves requests.
type Proxy struct {
	options Options
	log     *slog.Logger
	threads []*thread
	times   times

	view        atomic.Pointer[view]
	connections atomic.Int64 // of clients
	open        sync.Map     // listener -> *atomic.Int64: those by it
	crowd       crowd
	files       atomic.Int64 // descriptors from here on are not for clients
	memory      stock
	handshakes  gate
	tickets     tickets
	blocking    atomic.Int64 // filters' phases that run off the loops
	imported    atomic.Uint64
	drains      atomic.Bool
	drained     atomic.Bool // and no loop accepts any more
	done        chan struct{}
	access      *accessLog // nil: off

	mu        sync.Mutex // guards what follows
	snapshot  *Snapshot
	secrets   secrets // of the last one that was prepared
	state     lb.State
	endpoints map[endpointKey]*endpoint
	loads     map[lb.BackendID]*load
	budgets   map[string]*retryBudget
	filters   map[string]*phaseTimes
	judges    judges
	risen     map[lb.BackendID]time.Time // when backends came up that start slowly
	ramping   *time.Timer                // the next step of one of them; nil: none ever did
	deadline  *time.Timer
	finished  bool

	endpointList atomic.Pointer[[]*endpoint] // those of endpoints, for the sweepers
}

// New makes a proxy that serves nothing yet.
func New(o Options) (*Proxy, error) {
	o.Threads = max(1, o.Threads)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{
		options: o, log: o.Log, times: usualTimes, done: make(chan struct{}),
		endpoints: map[endpointKey]*endpoint{}, loads: map[lb.BackendID]*load{}, budgets: map[string]*retryBudget{}, filters: map[string]*phaseTimes{},
		risen: map[lb.BackendID]time.Time{},
	}
	p.endpointList.Store(new([]*endpoint))
	p.files.Store(filesForClients())
	flights := newFlights(o.Flight, o.Threads)
	for i := range o.Threads {
		t, err := newThread(p, i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make thread %d: %w", i, err), p.closeLoops())
		}
		t.flight = flights[i]
		p.threads = append(p.threads, t)
	}
	if o.Access != nil {
		p.access = newAccessLog(o.Access, o.Threads, p.log)
	}
	return p, nil
}

func (p *Proxy) closeLoops() error {
	for _, t := range p.threads {
		t.loop.Close()
	}
	return nil
}

// Commit switches s in. Requests in flight keep the snapshot they began with.
func (p *Proxy) Commit(s *Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.snapshot != nil {
		p.riseNew(p.snapshot, s, time.Now())
	}
	p.snapshot = s
	p.judges.set(p, s)
	p.retireEndpoints()
	p.retireLoads()
	p.switchView()
	p.limitMemory(s.config)
	rate := int64(s.config.Limits.BodyRate)
	p.each(func(t *thread) { t.loop.Pace(rate) })
	if p.access != nil {
		p.access.combined.Store(s.config.Log.Format == "combined")
	}
}

// retireEndpoints forgets the endpoints that the snapshot does not name; their
// idle connections are closed when the threads sweep.
func (p *Proxy) retireEndpoints() {
	named := map[*endpoint]bool{}
	for _, pool := range p.snapshot.pools {
		for _, b := range pool.Backends {
			named[b.endpoint] = true
			b.endpoint.retired.Store(false)
		}
	}
	var list []*endpoint
	for key, e := range p.endpoints {
		if !named[e] {
			e.retired.Store(true)
			if e.open.Load() == 0 {
				delete(p.endpoints, key)
				continue
			}
		}
		list = append(list, e)
	}
	p.endpointList.Store(&list)
}

// retireLoads forgets the counters of backends and pools that are gone.
func (p *Proxy) retireLoads() {
	backends, pools := map[lb.BackendID]bool{}, map[string]bool{}
	for _, pool := range p.snapshot.pools {
		pools[pool.Name()] = true
		for _, b := range pool.Backends {
			backends[b.id] = true
		}
	}
	maps.DeleteFunc(p.loads, func(id lb.BackendID, l *load) bool { return !backends[id] && l.active.Load() == 0 })
	maps.DeleteFunc(p.budgets, func(name string, _ *retryBudget) bool { return !pools[name] })
}

// SetState puts observed health and the operators' overlay over the snapshot.
func (p *Proxy) SetState(s lb.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.riseFrom(&p.state, &s, time.Now())
	before, was := p.state.Listeners, disabledIn(&p.state)
	p.state = s
	p.switchView()
	p.drainListeners(before, s.Listeners)
	if disabled := disabledIn(&s); len(disabled) > 0 {
		newly := without(disabled, was)
		p.each(func(t *thread) {
			t.cutBackends(disabled)
			t.cutProxied(newly)
		})
	}
	if s.Cut {
		p.each(func(t *thread) { t.clients.each(clientConn.cut) })
	}
	p.cutStragglers(s.Stragglers)
}

// cutStragglers closes single clients' connections.
func (p *Proxy) cutStragglers(clients []netip.AddrPort) {
	if len(clients) == 0 {
		return
	}
	set := map[netip.AddrPort]bool{}
	for _, c := range clients {
		set[c] = true
	}
	p.each(func(t *thread) {
		t.clients.each(func(c clientConn) {
			if set[c.from()] {
				c.cut()
			}
		})
	})
}

func disabledIn(s *lb.State) map[lb.BackendID]bool {
	disabled := map[lb.BackendID]bool{}
	for id, a := range s.Admin {
		if a.Disable || a.Cut {
			disabled[id] = true
		}
	}
	return disabled
}

// without are those of all that are not in some.
func without(all, some map[lb.BackendID]bool) map[lb.BackendID]bool {
	rest := maps.Clone(all)
	maps.DeleteFunc(rest, func(id lb.BackendID, _ bool) bool { return some[id] })
	return rest
}

// switchView makes the view of snapshot and state.
func (p *Proxy) switchView() {
	if p.snapshot == nil {
		return
	}
	v, err := newView(p.snapshot, overlay{state: p.state, ejected: p.judges.ejected, risen: p.risen, now: time.Now(), old: p.view.Load()})
	if err != nil { // Prepare has built it once
		p.log.Error("cannot build the view", "err", err)
		return
	}
	p.view.Store(v)
	p.planRamp(v)
}

// each runs f on every thread's loop.
func (p *Proxy) each(f func(*thread)) {
	for _, t := range p.threads {
		t.loop.Post(func() { f(t) })
	}
}

// Accept makes the loop of a thread accept on fd, a listening non-blocking
// socket that the proxy owns from now on, whether it fails or not.
func (p *Proxy) Accept(thread int, listener string, fd int) error {
	v := p.view.Load()
	if thread < 0 || thread >= len(p.threads) || v == nil || v.listeners[listener] == nil {
		unix.Close(fd)
		return fmt.Errorf("accept on thread %d for listener %q: no such thread or listener", thread, listener)
	}
	t := p.threads[thread]
	t.loop.Post(func() {
		if err := t.listen(listener, fd); err != nil {
			p.log.Error("cannot accept", "listener", listener, "err", err)
		}
	})
	return nil
}

// StopAccept ends what Accept began and closes fd.
func (p *Proxy) StopAccept(listener string, fd int) {
	p.each(func(t *thread) { t.unlisten(fd) })
}

// Run runs the loops until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	// A loop that comes back from a blocking wait needs a processor at once,
	// not behind the garbage collector or a handshake.
	runtime.GOMAXPROCS(len(p.threads) + 2)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(p.threads))
	var running sync.WaitGroup
	for i, t := range p.threads {
		running.Go(func() {
			errs[i] = t.loop.Run(ctx)
			cancel() // without one loop its slots would hang: stop all
		})
	}
	running.Go(func() { p.runWatchdog(ctx) })
	running.Go(func() { p.runMemory(ctx) })
	running.Wait()
	if p.access != nil {
		p.access.close()
	}
	return errors.Join(errs...)
}

// Drain takes no new connections, tells clients to go, and closes Done when
// none is left, or at the deadline.
func (p *Proxy) Drain(deadline time.Time) {
	if p.drains.Swap(true) {
		return
	}
	p.mu.Lock()
	p.deadline = time.AfterFunc(time.Until(deadline), p.finish)
	p.mu.Unlock()
	grace := min(idleGrace, time.Until(deadline)/2)
	var left atomic.Int64
	left.Store(int64(len(p.threads)))
	p.each(func(t *thread) {
		t.drain(grace)
		if left.Add(-1) > 0 {
			return
		}
		// Only now does no loop accept any more: a count of zero before would
		// end the process under a connection that is just being accepted.
		p.drained.Store(true)
		if p.connections.Load() == 0 {
			go p.finishWritten()
		}
	})
}

// owingTick is how often a drain looks whether slow clients have taken the rest.
const owingTick = 20 * time.Millisecond

// finishWritten ends a drain once every loop has ended its turn, for what the
// last connections were told is written at the end of one, and once nothing is
// left that the kernel has not taken yet.
func (p *Proxy) finishWritten() {
	var left atomic.Int64
	left.Store(int64(len(p.threads)))
	p.each(func(t *thread) {
		t.loop.Post(func() { // in the next turn
			if left.Add(-1) == 0 {
				go p.finishSent()
			}
		})
	})
}

func (p *Proxy) finishSent() {
	for slices.ContainsFunc(p.threads, func(t *thread) bool { return t.loop.Owing() > 0 }) {
		select {
		case <-time.After(owingTick):
		case <-p.done: // the time is over
			return
		}
	}
	p.finish()
}

// finish ends a drain.
func (p *Proxy) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.finished {
		p.finished = true
		p.deadline.Stop()
		close(p.done)
	}
}

// clientGone counts a client's connection out.
func (p *Proxy) clientGone() {
	if p.connections.Add(-1) == 0 && p.drained.Load() {
		go p.finishWritten() // it may have to wait for a lock
	}
}

// Done is closed when a drain is over.
func (p *Proxy) Done() <-chan struct{} { return p.done }

// Beats returns, per thread, when its loop last turned.
func (p *Proxy) Beats() []time.Time {
	beats := make([]time.Time, len(p.threads))
	for i, t := range p.threads {
		beats[i] = t.loop.Beat()
	}
	return beats
}

// Stats reports what the proxy counted since it began.
func (p *Proxy) Stats() lb.Stats {
	s := lb.Stats{Connections: int(p.connections.Load()), Samples: p.samples()}
	for _, t := range p.threads {
		s.Requests += int(t.requests.Load())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	open := p.openTo()
	for id, l := range p.loads {
		s.Backends = append(s.Backends, lb.BackendLoad{ID: id, Active: int(l.active.Load()),
			Connections: open[id.Address], Requests: l.requests.Load(), Failures: l.failures.Load(),
			Latency: l.answers.timing(), Ejected: p.judges.ejected[id]})
	}
	slices.SortFunc(s.Backends, func(a, b lb.BackendLoad) int { return compareIDs(a.ID, b.ID) })
	return s
}
