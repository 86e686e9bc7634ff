// Package health decides whether backends are up.
//
// A Monitor probes each target and reports changes only, after rise or fall
// results in a row. What it knows is kept by (pool, backend, check), so it
// survives reloads that change weights. All methods may be called
// concurrently. Start at Monitor.Run; state.go has the rule, probe.go the
// probes.
package health

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
)

// Target is one backend to probe.
type Target struct {
	ID    lb.BackendID
	Check lb.Check    // with its defaults filled in, as lb.Parse does
	TLS   *tls.Config // how the pool's backends are reached; nil: in clear text
	Proxy bool        // they expect a PROXY header before anything else
	Bind  netip.Addr  // where probes come from; not valid: the kernel chooses
}

// Targets lists what cfg wants probed: every backend of every pool with a
// check. TLS is left to who can read its files.
func Targets(cfg *lb.Config) []Target {
	var targets []Target
	for _, pool := range cfg.Pools {
		if pool.Check == nil {
			continue
		}
		for _, b := range pool.Backends {
			targets = append(targets, Target{ID: lb.BackendID{Pool: pool.Name, Address: b.Address}, Check: *pool.Check, Proxy: pool.ProxyProtocol != "", Bind: pool.Bind})
		}
	}
	return targets
}

// Change is a backend that went up or down.
type Change struct {
	ID       lb.BackendID
	From, To lb.Health
	At       time.Time
	Detail   string // what the last probe saw
}

// Event is the change as an operator reads it.
func (c Change) Event() lb.Event {
	return lb.Event{Time: c.At, Kind: "backend." + c.To.String(), Subject: c.ID.String(), Detail: c.Detail}
}

// Result is what one probe found.
type Result struct {
	At     time.Time     `json:"at"` // when it began
	OK     bool          `json:"ok"`
	Took   time.Duration `json:"took"`
	Detail string        `json:"detail"` // "status 200"; "connect: connection refused"
}

// Detail is everything known of one backend.
type Detail struct {
	ID     lb.BackendID `json:"id"`
	Health lb.Health    `json:"health"`
	Since  time.Time    `json:"since"`   // of the last change; zero while unknown
	Reason string       `json:"reason"`  // what the probe saw that changed it
	Streak int          `json:"streak"`  // equal results in a row, the last one included
	Last   []Result     `json:"results"` // newest first, at most 8
	// Alone: this node finds it down, and all others that say something find it
	// up.
	Alone      bool `json:"alone,omitempty"`
	OthersUp   int  `json:"others_up,omitempty"`
	OthersDown int  `json:"others_down,omitempty"`
	// Heard: other nodes probe it, and this one goes by what they find.
	Heard  bool   `json:"heard,omitempty"`
	Probes uint64 `json:"probes"`
	Fails  uint64 `json:"fails"`
}

const (
	remembered = 8       // results per target
	maxUntold  = 1 << 16 // changes that wait for Options.Changed
	shortest   = 100 * time.Millisecond
)

// Options configures a Monitor. The zero value is usable.
type Options struct {
	// Changed is told of every change, in order, one at a time. It may call
	// the Monitor, and holds up no probe. Nil: nobody is told.
	Changed func(Change)
	Workers int // probes in flight at once; default 256
	// Dial opens a probe's connection; default a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Monitor probes targets. Make one with New.
type Monitor struct {
	changed func(Change)
	probe   prober
	slots   chan struct{} // one token per probe in flight
	wake    chan struct{} // the schedule has a new first entry
	telling chan struct{} // there are changes

	mu      sync.Mutex // guards what follows, and every target's fields
	targets map[key]*target
	due     schedule
	changes []Change // not yet told, at most maxUntold

	sharing  sharing
	recalled map[uint64]lb.Health // of an earlier life, by hash
}

// key is what a target's state is kept by.
type key struct {
	id    lb.BackendID
	check string
}

func (t Target) key() key {
	c := t.Check
	grpc := ""
	if c.GRPC != nil {
		grpc, c.GRPC = "grpc "+*c.GRPC, nil
	}
	return key{t.ID, fmt.Sprintf("%+v%s", c, grpc)}
}

// target is a backend with its schedule. It is in the schedule or in flight.
type target struct {
	Target
	key    key
	hash   uint64 // of key: what nodes call it among themselves
	next   time.Time
	flying bool
	gone   bool

	mine      bool     // this node is among those that shall probe it
	probing   bool     // and does; or nobody's word is fresh
	scheduled bool     // it is in the schedule
	probers   []string // nil: all
	others    opinion
	suspect   int // probes to come that are sooner than usual

	state  state
	since  time.Time
	reason string
	last   []Result // newest first
	probes uint64
	fails  uint64
}

// New makes a Monitor without targets; nothing is probed before Run.
func New(o Options) *Monitor {
	if o.Workers <= 0 {
		o.Workers = 256
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Changed == nil {
		o.Changed = func(Change) {}
	}
	return &Monitor{
		changed: o.Changed,
		probe:   prober{dial: o.Dial},
		slots:   make(chan struct{}, o.Workers),
		wake:    make(chan struct{}, 1),
		telling: make(chan struct{}, 1),
		targets: map[key]*target{},
	}
}

// Update replaces the targets. A target whose backend and check are as before
// keeps its state and its schedule; a new one is probed at once.
func (m *Monitor) Update(targets []Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := make(map[key]*target, len(targets))
	for _, want := range targets {
		k := want.key()
		t := m.targets[k]
		if t == nil {
			t = &target{key: k, hash: hashOf(k.id.Pool, k.id.Address, k.check), next: time.Now()}
			if h := m.recalled[t.hash]; h != lb.Unknown {
				t.state, t.since, t.reason = state{health: h, ok: h != lb.Down}, time.Now(), "as before the restart"
			}
		}
		t.Target = want
		next[k] = t
	}
	for k, t := range m.targets {
		t.gone = next[k] == nil
	}
	if len(m.targets) > 0 || len(next) > 0 {
		m.recalled = nil // what comes later is new
	}
	m.targets = next
	m.appoint()
	m.due = slices.DeleteFunc(m.due, func(t *target) bool { return t.gone })
	heap.Init(&m.due)
	m.heed()
}

// push puts a target in the schedule.
func (m *Monitor) push(t *target) {
	t.scheduled = true
	heap.Push(&m.due, t)
	signal(m.wake)
}

// reschedule puts the schedule in order again.
func (m *Monitor) reschedule() {
	heap.Init(&m.due)
	signal(m.wake)
}

// dropIdle takes out of the schedule what others probe by now.
func (m *Monitor) dropIdle() {
	if !slices.ContainsFunc(m.due, func(t *target) bool { return !t.probing }) {
		return
	}
	m.due = slices.DeleteFunc(m.due, func(t *target) bool {
		t.scheduled = t.scheduled && t.probing
		return !t.probing
	})
	m.reschedule()
}

// Run probes until ctx ends, then waits for the probes in flight.
func (m *Monitor) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { m.runTell(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m.slots <- struct{}{}: // a probe may start
		}
		t, wait := m.take(time.Now())
		if t != nil {
			running.Go(func() {
				m.fly(ctx, t)
				<-m.slots
			})
			continue
		}
		<-m.slots
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-m.wake:
		}
	}
}

// take removes the first target from the schedule if its time has come, or
// says how long that is.
func (m *Monitor) take(now time.Time) (t *target, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.due) == 0 {
		return nil, time.Hour // Update wakes us
	}
	if wait := m.due[0].next.Sub(now); wait > 0 {
		return nil, wait
	}
	t = heap.Pop(&m.due).(*target)
	t.flying, t.scheduled = true, false
	return t, 0
}

// fly probes t and takes the result in.
func (m *Monitor) fly(ctx context.Context, t *target) {
	m.mu.Lock()
	what := t.Target
	m.mu.Unlock()
	start := time.Now()
	detail, err := m.probe.probe(ctx, what)
	if ctx.Err() != nil {
		return // it was cut, not answered
	}
	result := Result{At: start, OK: err == nil, Took: time.Since(start), Detail: detail}
	if err != nil {
		result.Detail = err.Error()
	}
	m.land(t, result)
}

func (m *Monitor) land(t *target, r Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.flying = false
	if t.gone || !t.probing {
		return
	}
	t.suspect = max(0, t.suspect-1)
	t.probes++
	if !r.OK {
		t.fails++
	}
	t.last = slices.Insert(t.last, 0, r)
	t.last = t.last[:min(len(t.last), remembered)]
	from := t.state.health
	if t.state = t.state.after(r.OK, t.Check.Rise, t.Check.Fall); t.state.health != from {
		t.since, t.reason = time.Now(), r.Detail
		m.tell(Change{ID: t.ID, From: from, To: t.state.health, At: t.since, Detail: r.Detail})
	}
	t.next = r.At.Add(spread(t.interval()))
	t.scheduled = true
	heap.Push(&m.due, t)
	if m.due[0] == t {
		signal(m.wake)
	}
}

// interval is short while results differ from the state that holds: a change is
// found soon, and steady backends are asked seldom.
func (t *target) interval() time.Duration {
	changing := t.state.ok == (t.state.health == lb.Down)
	if t.suspect == 0 && (t.state.streak == 0 || !changing) {
		return t.Check.Interval
	}
	return min(cmp.Or(t.Check.Fast, max(t.Check.Interval/4, shortest)), t.Check.Interval)
}

// tell queues a change. A listener that blocks for ever misses the oldest ones:
// State has the truth.
func (m *Monitor) tell(c Change) {
	if len(m.changes) == maxUntold {
		m.changes = m.changes[1:]
	}
	m.changes = append(m.changes, c)
	signal(m.telling)
}

// spread shortens an interval by up to 10 %, so that the probes of many targets
// drift apart. It never lengthens it: fall x interval + timeout is a promise.
func spread(interval time.Duration) time.Duration {
	return interval - rand.N(max(interval/10, 1))
}

// runTell passes changes on.
func (m *Monitor) runTell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.telling:
		}
		m.mu.Lock()
		changes := m.changes
		m.changes = nil
		m.mu.Unlock()
		for _, c := range changes {
			m.changed(c)
		}
	}
}

// State is the health of every target now; the map belongs to the caller.
func (m *Monitor) State() map[lb.BackendID]lb.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	state := make(map[lb.BackendID]lb.Health, len(m.targets))
	for k, t := range m.targets {
		state[k.id] = t.state.health
	}
	return state
}

// Details lists every target with its last results, sorted by identity.
func (m *Monitor) Details() []Detail {
	m.mu.Lock()
	defer m.mu.Unlock()
	details := make([]Detail, 0, len(m.targets))
	for _, t := range m.targets {
		details = append(details, Detail{
			ID: t.ID, Health: t.state.health, Since: t.since, Reason: t.reason, Streak: t.state.streak,
			Last: slices.Clone(t.last), Probes: t.probes, Fails: t.fails, Heard: !t.probing,
			Alone:    t.probing && t.state.health == lb.Down && t.others.up > 0 && t.others.down == 0,
			OthersUp: t.others.up, OthersDown: t.others.down,
		})
	}
	slices.SortFunc(details, func(a, b Detail) int {
		return cmp.Or(cmp.Compare(a.ID.Pool, b.ID.Pool), cmp.Compare(a.ID.Address, b.ID.Address))
	})
	return details
}

// schedule is a heap of the targets that wait, the next one first.
type schedule []*target

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].next.Before(s[j].next) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(t any)        { *s = append(*s, t.(*target)) }
func (s *schedule) Pop() any {
	last := len(*s) - 1
	t := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return t
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
