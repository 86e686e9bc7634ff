// Package node is the owner of a node's state: which configuration runs, what
// operators ordered, who is healthy, who is here.
//
// One loop, Node.Run, owns it. Admin handlers, signals, health changes,
// cluster changes and worker events reach the loop as requests; a pure
// function, Plan, decides what the workers, the datapath, the monitor and the
// cluster shall be told; what readers see is an immutable Snapshot. All
// methods of Node may be called concurrently. Start at Load, New and Run.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb"
)

// Options says what a node is made of.
type Options struct {
	State    *State   // from Load
	Fleet    Fleet    // required
	Monitor  Monitor  // nil: every backend stays unknown, which counts as up
	Cluster  Cluster  // nil: this node is alone
	Datapath Datapath // nil: no fast path, DatapathError says why
	// Discovery is nil when pools have the backends that are listed only.
	Discovery Discovery
	// DatapathError is why there is no Datapath; with fastpath.required New fails.
	DatapathError error
	Version       string
	Events        string                       // a file where events outlive the process; "": none
	Log           *slog.Logger                 // nil: slog.Default()
	Addresses     func() ([]netip.Addr, error) // of the interfaces other than lo; nil: the host's
	Now           func() time.Time             // nil: time.Now
}

// Bounds of the loop.
const (
	tick           = time.Second
	addressesEvery = 5 * time.Second
	retryEvery     = 5 * time.Second // a datapath that failed
	slotsGoneAfter = 3 * time.Second // without a live slot the weight is 0
	waiting        = 16              // changes that may wait for the one under way
)

// Node owns the state of one lbd.
type Node struct {
	o      Options
	log    *slog.Logger
	store  store
	seed   [16]byte
	booted *lb.Config // what main opened everything with

	started time.Time

	requests chan request  // to run
	noted    chan struct{} // a token: look again at everything
	serving  chan struct{} // closed once the first configuration serves
	stopped  chan struct{} // closed when run has ended
	changes  gate          // one configuration change or upgrade at a time
	orders   gate          // one change of the overlay at a time
	events   ring
	stats    statsCache
	snapshot atomic.Pointer[Snapshot] // written by run, read by all; never changed once stored
	group    sync.WaitGroup           // what run started

	// sockets is held while descriptors of the fleet are in use, and while the
	// fleet may close some.
	sockets sync.Mutex

	renewals renewals // counts

	// Owned by run.
	running   running
	overlay   Overlay
	reload    Reload
	drain     drain
	listeners listenerDrains
	counting  bool // of their connections is on its way
	backends  backendDrains
	adding    bool // up what they have in progress
	finding   finding
	replica   replica
	told      *Decision  // what was told last; nil: nothing yet
	probing   *lb.Config // whose targets the monitor has
	paths     pathState
	live      liveness
	address   []netip.Addr
	looked    time.Time            // when address was read
	judged    time.Time            // when the certificates' ends were looked at
	here      map[lb.VIP]time.Time // VIPs that some member lacked, and until when that matters
	away      map[lb.VIP]time.Time // those that went to other members, and until when that matters
	mute      []netip.Addr         // peers whose datapath did not answer at the last look
	turns     []netip.Addr         // and those whose workers served
	retention
	troubles
	disk diskState

	// What the discovery found, as data_dir has it; used by who may change
	// the configuration.
	keptFound map[string][]lb.Backend
}

// running is the configuration in force.
type running struct {
	source
	generation Generation
	listed     *lb.Config        // as the text says
	config     *lb.Config        // with the backends that were found
	found      []byte            // those, as workers get them
	contents   map[string][]byte // the files it names
	files      string            // their digest
	pairs      []Certificate     // among the files
	since      time.Time
	trial      *Trial // nil: it stays
}

// Reload is the verdict on the last try to read the file.
type Reload struct {
	Time time.Time
	OK   bool
	Text string // why not
}

// pathState is what the loop knows of the datapath.
type pathState struct {
	force bool      // descriptors may have changed under the same numbers
	err   error     // of the last Apply
	retry time.Time // not before
}

// liveness is since when this node has had no live slot.
type liveness struct {
	goneSince time.Time // zero: there is one
	gone      bool      // for longer than slotsGoneAfter, or since the start
}

// troubles are lines that stay until what they are about is mended.
type troubles struct {
	loading []string // what was wrong in data_dir at the start
	saving  error    // why the last state could not be written
	files   []string // what is wrong with the files that the configuration names
	scan    error    // why the interfaces could not be read

	reverting   bool // a change that was not confirmed is being taken back
	revertAfter time.Time
	unreverted  error // why the last try came to nothing
}

// New makes a node; Run brings it to life.
func New(o Options) (*Node, error) {
	c := o.State.config
	if o.Datapath == nil && c.Fastpath.Required {
		return nil, fmt.Errorf("fastpath.required is set and there is no fast path: %w", cause(o.DatapathError, c))
	}
	if o.Datapath != nil && c.Fastpath.Required && o.Datapath.Fastpath().Mode == "off" {
		return nil, fmt.Errorf("fastpath.required is set and the fast path is off: %s", o.Datapath.Fastpath().Reason)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Addresses == nil {
		o.Addresses = hostAddresses
	}
	n := &Node{
		o: o, log: o.Log, store: o.State.store, seed: o.State.seed, booted: c, started: o.Now(),
		requests: make(chan request), noted: make(chan struct{}, 1),
		serving: make(chan struct{}), stopped: make(chan struct{}),
		changes: newGate(), orders: newGate(),
		overlay: o.State.overlay, paths: pathState{force: true}, live: liveness{gone: true}, troubles: troubles{loading: o.State.told},
		disk: diskState{err: o.State.unlocked},
	}
	if t := o.State.trial; t != nil { // what is left of it passes on our monotonic clock
		t.Until = o.Now().Add(min(t.Until.Sub(o.Now()), maxTrial))
	}
	n.running = running{source: o.State.source, generation: o.State.current.Generation, listed: c, config: c, trial: o.State.trial}
	if o.Events != "" {
		if err := n.events.keepIn(o.Events); err != nil {
			n.log.Warn("events are forgotten when this process ends", "err", err)
		}
	}
	if o.Discovery != nil {
		n.keptFound = o.State.found
		o.Discovery.Recall(n.keptFound)
	}
	n.publish(Decision{})
	return n, nil
}

func cause(err error, c *lb.Config) error {
	switch {
	case err != nil:
		return err
	case c.Fastpath.Mode == lb.FastpathOff:
		return errors.New("fastpath.mode is off")
	}
	return errors.New("none was opened")
}

// Serving is closed once the first configuration serves.
func (n *Node) Serving() <-chan struct{} { return n.serving }

// Run applies the loaded configuration, then serves requests until ctx ends.
// Workers go on serving after it. It returns an error only when the first
// configuration cannot be applied.
func (n *Node) Run(ctx context.Context) error {
	defer n.events.close()
	defer n.group.Wait()
	defer close(n.stopped)
	n.look()
	if err := n.boot(ctx); err != nil {
		return err
	}
	n.ordered() // a drain may be older than this process
	n.settle()
	close(n.serving)
	n.group.Go(func() { n.runFiles(ctx) })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		var answer chan<- struct{}
		select {
		case <-ctx.Done():
			return nil
		case r := <-n.requests:
			r.do()
			answer = r.done
		case e := <-n.o.Fleet.Events():
			n.event(e)
		case <-n.o.Fleet.Changed():
			n.paths.force = true
		case <-n.clusterChanged():
		case <-n.discovered():
			n.finding.due = true
		case <-n.noted:
		case <-ticker.C:
			if !n.tick() {
				continue
			}
		}
		n.tickFound()
		n.replicate()
		n.settle()
		if answer != nil {
			close(answer)
		}
	}
}

// request is something that run shall do.
type request struct {
	do   func()
	done chan<- struct{} // closed when it is done and everybody can see it
}

func (n *Node) clusterChanged() <-chan struct{} {
	if n.o.Cluster == nil {
		return nil
	}
	return n.o.Cluster.Changed()
}

// tick looks at what announces nothing; it reports whether anything changed.
func (n *Node) tick() bool {
	changed := n.look()
	changed = n.tickDrain() || changed
	changed = n.tickListeners() || changed
	changed = n.tickBackends() || changed
	n.tickFound()
	n.tickDisk()
	n.tickTrial()
	changed = n.tickCertificates() || changed
	changed = n.tickHere() || changed
	changed = n.tickAway() || changed
	changed = n.tickRetention() || changed
	if s := n.silent(); !equal(s, n.mute) {
		n.mute, changed = s, true
	}
	if s := n.turning(); !equal(s, n.turns) {
		n.turns, changed = s, true
	}
	changed = n.replica.due(n.o.Now()) || changed
	if !n.live.goneSince.IsZero() && !n.live.gone && n.o.Now().Sub(n.live.goneSince) >= slotsGoneAfter {
		n.live.gone, changed = true, true
	}
	return changed || n.paths.err != nil && !n.o.Now().Before(n.paths.retry)
}

// look reads the host's addresses; it reports whether they changed.
func (n *Node) look() bool {
	now := n.o.Now()
	if now.Sub(n.looked) < addressesEvery {
		return false
	}
	n.looked = now
	found, err := n.o.Addresses()
	n.scan = err
	if err != nil || equal(found, n.address) {
		return false
	}
	n.address = found
	return true
}

// hostAddresses lists the addresses of the interfaces other than lo.
func hostAddresses() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	var all []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			if p, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(p.IP); ok {
					all = append(all, ip.Unmap())
				}
			}
		}
	}
	return all, nil
}

// do has run execute f, which must not block, and returns when the snapshot
// shows it: who asked for a change and looks must find it.
func (n *Node) do(f func()) error {
	done := make(chan struct{})
	select {
	case n.requests <- request{f, done}:
		<-done
		return nil
	case <-n.stopped:
		return fail(Busy, "", "lbd is stopping")
	}
}

// Turn returns when the loop has come round, which a loop that hangs never does.
func (n *Node) Turn() error { return n.do(func() {}) }

// Note records an event (of the monitor, the cluster, the datapath) and makes
// the loop look again at all of them. It never blocks.
func (n *Node) Note(e lb.Event) {
	n.event(e)
	n.wake()
}

func (n *Node) wake() {
	select {
	case n.noted <- struct{}{}:
	default: // a token is already there
	}
}

// event records and logs; every event of a node passes here.
func (n *Node) event(e lb.Event) {
	if e.Time.IsZero() {
		e.Time = n.o.Now()
	}
	n.events.add(e)
	n.log.Info(e.Kind, "subject", e.Subject, "reason", e.Reason, "detail", e.Detail)
}

// Events lists what happened after a sequence number, oldest first, and gives
// a channel that is closed when there is more.
func (n *Node) Events(after uint64) ([]Numbered, <-chan struct{}) { return n.events.after(after) }
