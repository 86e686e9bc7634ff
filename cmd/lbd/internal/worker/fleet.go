// Package worker runs the processes that serve requests.
//
// A Fleet is the supervisor's side: it owns every listening socket, starts the
// worker processes, hands them duplicates of all sockets and one configuration
// at a time, and watches them. Workers go on when their supervisor is gone, and
// the next OpenFleet finds and adopts them. Child is the side of the worker
// process. Both speak the protocol of wire.go and ops.go over a unix socket in
// the run directory.
//
// All methods of a Fleet may be called concurrently; Apply, Upgrade and
// Shutdown wait for each other. Start at OpenFleet, then Fleet.Apply.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
)

// Options says what a Fleet cannot know by itself.
type Options struct {
	RunDir string // sockets and the lock; created when missing

	// Binary is the program whose "worker" command is a worker: lbd's own
	// path, resolved when it started.
	Binary  string
	Version string // ours, for the workers' log

	// Parse reads a document as the caller does; it serves to understand the
	// document that adopted workers hold.
	Parse func(file string, document []byte) (*lb.Config, error)

	// Tickets are the secrets that keys of TLS session tickets are made of, the
	// first one in use: the cluster's. None: one of this run directory.
	Tickets [][]byte

	Log    *slog.Logger
	Stderr *os.File // the workers'; nil: ours
	Stdout *os.File // where the access log "stdout" goes; nil: ours

	// ReadyTimeout is how long a new crew may take to be ready; 0: 15 s.
	ReadyTimeout time.Duration
}

// Update is one configuration for all workers.
type Update struct {
	Generation uint64
	File       string            // the document's name in messages
	Document   []byte            // what every worker parses with its own filters
	Files      map[string][]byte // the contents of every file the document names
	Config     *lb.Config        // the parsed document
	Drained    []string          // listeners whose sockets are not opened; those that are open stay

	// Persist, when set, is called once every worker has built the document and
	// before any worker switches to it. Its error leaves everything as it was.
	Persist func() error
	// Built, when set, is told what each worker answered. It may be called
	// concurrently.
	Built func(worker string, pid int, took time.Duration, err error)

	packed document
}

// WorkerInfo is what is known of one worker process.
type WorkerInfo struct {
	Crew        int       `json:"crew"`  // the start or upgrade it belongs to
	Index       int       `json:"index"` // its place in the crew
	PID         int       `json:"pid"`
	State       string    `json:"state"` // starting | ready | stuck | draining | drained | down
	Ready       bool      `json:"ready"`
	Slots       []int     `json:"slots"`       // it accepts on these now
	Connections int       `json:"connections"` // of clients, as of a moment ago
	Generation  uint64    `json:"generation"`
	Version     string    `json:"version"`
	Since       time.Time `json:"since"`    // when it started or was adopted
	Restarts    int       `json:"restarts"` // of this place in the crew
	Adopted     bool      `json:"adopted"`  // it was started by an earlier supervisor
	Detail      string    `json:"detail,omitempty"`
}

// ErrClosed is returned by what is called after Close or Shutdown.
var ErrClosed = errors.New("the workers are shut down")

const defaultReady = 15 * time.Second

// Fleet is all workers of this node.
type Fleet struct {
	options Options
	lock    *os.File
	stderr  *os.File
	ctx     context.Context // ends with Close and Shutdown
	end     context.CancelFunc
	work    sync.WaitGroup

	turn    chan struct{}      // held by who changes crew, sockets or configuration
	poke    chan struct{}      // assignments may have to change
	settles chan chan struct{} // the same, for who waits until they have
	push    chan struct{}      // a State is to be sent
	changed chan struct{}
	events  chan lb.Event

	saving sync.Mutex // one writer of the totals' file

	mu           sync.Mutex // guards what follows and what members say it guards
	closed       bool
	groups       []*group
	slots        int // of every group
	pulse        int // descriptor of the array where workers say that they turn; 0: none
	update       *Update
	adopted      *Update
	crew         *crew
	leaving      []*member // they drain, or are about to
	state        lb.State
	stateVersion uint64
	retired      lb.Stats
	notes        map[string]string
	access       *os.File // nil: no access log
	accessName   string
	lastCrew     int
	dropped      uint64 // events that nobody received
	user         string
}

// OpenFleet takes the run directory (one lbd at a time) and adopts the workers
// that an earlier supervisor left in it, if any.
func OpenFleet(ctx context.Context, o Options) (*Fleet, error) {
	f, err := newFleet(o)
	if err != nil {
		return nil, err
	}
	f.turn <- struct{}{} // who dies meanwhile is replaced when all is known that a worker needs
	err = f.adopt(ctx)
	f.release()
	if err != nil {
		f.letGo()
		return nil, err
	}
	f.runAll()
	return f, nil
}

// newFleet takes the run directory.
func newFleet(o Options) (*Fleet, error) {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = defaultReady
	}
	held, err := Lock(o.RunDir)
	if err != nil {
		return nil, err
	}
	raiseFiles()
	if len(o.Tickets) == 0 {
		secret, err := ownSecret(o.RunDir)
		if err != nil {
			held.Close()
			return nil, err
		}
		o.Tickets = [][]byte{secret}
	}
	f := &Fleet{
		options: o, lock: held, stderr: o.Stderr,
		turn: make(chan struct{}, 1), poke: make(chan struct{}, 1), settles: make(chan chan struct{}),
		push: make(chan struct{}, 1), changed: make(chan struct{}, 1), events: make(chan lb.Event, 256),
		notes: map[string]string{},
	}
	f.ctx, f.end = context.WithCancel(context.Background())
	return f, nil
}

// runAll starts what goes on for as long as the fleet does.
func (f *Fleet) runAll() {
	f.run(f.runSettle)
	f.run(f.runState)
	f.run(f.runSave)
	f.run(f.runTickets)
	wake(f.poke)
}

// run starts a goroutine that Close waits for; it ends with f.ctx. Do not hold
// mu.
func (f *Fleet) run(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() == nil {
		f.work.Go(what)
	}
}

// wake leaves a token for a loop that looks at everything when it wakes.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take waits for the turn to change things.
func (f *Fleet) take(ctx context.Context) error {
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("another change is in progress: %w", ctx.Err())
	case <-f.ctx.Done():
		return ErrClosed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		<-f.turn
		return ErrClosed
	}
	return nil
}

func (f *Fleet) release() { <-f.turn }

// Adopted returns the configuration that adopted workers serve; nil when there
// were none. Its Config is nil when we cannot parse it.
func (f *Fleet) Adopted() *Update {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.adopted
}

// Crew lists the worker processes: of the current crew by index, then those
// that drain.
func (f *Fleet) Crew() []WorkerInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []WorkerInfo
	if f.crew != nil {
		for i, s := range f.crew.seats {
			info := WorkerInfo{Crew: f.crew.number, Index: i, State: "down", Detail: s.detail}
			switch {
			case s.member != nil:
				info = s.member.info()
			case f.isLeaving(f.crew, i):
				continue // it is among those that drain
			case !s.drained.IsZero():
				info.State, info.Detail = "drained", "since "+s.drained.UTC().Format(time.RFC3339)
			}
			info.Restarts = s.restarts
			out = append(out, info)
		}
	}
	for _, m := range f.leaving {
		out = append(out, m.info())
	}
	return out
}

// isLeaving reports whether a worker of a place that shall stay empty is not gone
// yet; call it with mu held.
func (f *Fleet) isLeaving(c *crew, index int) bool {
	return !c.seats[index].drained.IsZero() && slices.ContainsFunc(f.leaving, func(m *member) bool { return m.crew.number == c.number && m.index == index })
}

// Sockets lists what is bound, with each slot's listening socket. The
// descriptors stay the Fleet's; they are valid until the next Apply, Upgrade,
// Shutdown or Close.
func (f *Fleet) Sockets() []lb.SteeredBind {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []lb.SteeredBind
	for _, g := range f.groups {
		live := g.live
		if live == nil {
			live = slices.Repeat([]bool{true}, len(g.fds))
		}
		out = append(out, lb.SteeredBind{Bind: g.actual, Sockets: slices.Clone(g.fds), Live: slices.Clone(live)})
	}
	return out
}

// Notes are lines for the status: what runs otherwise than an operator may
// expect, and why.
func (f *Fleet) Notes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, line := range f.notes {
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// note sets the status line about a thing; "" takes it away.
func (f *Fleet) note(about, line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if line == "" {
		delete(f.notes, about)
		return
	}
	if f.notes[about] != line {
		f.notes[about] = line
		f.options.Log.Info(line)
	}
}

// Changed receives when Sockets or Crew may say something new. One value may
// stand for several changes.
func (f *Fleet) Changed() <-chan struct{} { return f.changed }

// Events receives what happens to workers: worker.start, worker.adopt,
// worker.exit, worker.stuck, worker.recover, worker.drain-overdue, worker.empty,
// crew.upgrade, slots.change. Events that nobody receives in time are dropped.
func (f *Fleet) Events() <-chan lb.Event { return f.events }

func (f *Fleet) event(kind string, m *member, detail string) {
	subject := "crew"
	if m != nil {
		subject = fmt.Sprintf("worker %s (pid %d)", m.name(), m.pid)
	}
	f.tell(eventOf(kind, subject, detail))
}

func eventOf(kind, subject, detail string) lb.Event {
	return lb.Event{Time: time.Now(), Kind: kind, Subject: subject, Detail: detail}
}

func (f *Fleet) tell(e lb.Event) {
	select {
	case f.events <- e:
	default: // whoever reads late looks at everything then
		f.mu.Lock()
		f.dropped++
		f.mu.Unlock()
	}
}

func (f *Fleet) userName() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.user
}

func (f *Fleet) drainTimeout() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.update != nil && f.update.Config != nil && f.update.Config.Drain.Timeout > 0 {
		return f.update.Config.Drain.Timeout
	}
	return 30 * time.Second
}

// threads resolves "auto": as many as there are CPUs for each process.
func threads(configured, processes int) int {
	if configured > 0 {
		return configured
	}
	return max(1, runtime.NumCPU()/processes)
}

// Slots is how many listening sockets a bind gets under these settings.
func Slots(w lb.WorkerSettings) int {
	processes := max(1, w.Processes)
	return processes * threads(w.Threads, processes)
}

// dropGroup takes a group out of the list; call it with mu held.
func (f *Fleet) dropGroup(g *group) {
	f.groups = slices.DeleteFunc(f.groups, func(have *group) bool { return have == g })
}

// group finds a bound address; call it with mu held.
func (f *Fleet) group(name netip.AddrPort) *group {
	for _, g := range f.groups {
		if g.name == name {
			return g
		}
	}
	return nil
}
