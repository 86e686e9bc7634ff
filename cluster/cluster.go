// Package cluster knows who is here and what they see.
//
// The nodes of a cluster agree on a list of epochs (see lb.Epoch) without a
// leader: each node mints and merges by the same rules, so equal lists follow
// from having heard the same epochs. All methods may be called concurrently.
// Start at Cluster.Run, then view.go for the rules. gossip.go opens memberlist;
// send.go is what goes out, receive.go what comes in, by its kind, delegate.go what
// memberlist asks of us and tells of members. No other file knows it, but for
// cut.go, which loses messages in tests, and Options.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/cirque-lb/lb"
)

// Options says which cluster to join, as whom.
type Options struct {
	Name      string         // of the cluster; gossip of other names is refused
	Self      lb.Member      // name, boot id, encapsulation address, configured weight
	Bind      netip.AddrPort // for gossip, UDP and TCP; port 0 takes a free one
	Advertise netip.AddrPort // what peers dial; default: Bind, or Self.Address when Bind is unspecified
	Join      []string       // host:port of seeds, redialled for ever
	Keys      []Key          // the first one encrypts; none only on a loopback Bind
	// StateFile keeps the epochs over a restart of this process; it belongs
	// where the datapath's life does (run_dir). "": they are kept by peers only.
	StateFile string
	// IdentityFile keeps the key that signs what this node says, and those of
	// its peers; it belongs where the node's name does (data_dir). "": the
	// others meet somebody new after every start.
	IdentityFile string
	// Reaches says which peers' addresses can be reached now, for tests of
	// partitions; nil: all.
	Reaches func(netip.AddrPort) bool
	Log     *slog.Logger   // default: discarded
	Notify  func(lb.Event) // told of members and epochs from one goroutine; nil: nobody

	transport memberlist.NodeAwareTransport // instead of sockets, for tests with a clock of their own
}

// MemberState is what gossip says of a node.
type MemberState string

// The states of a member. One that does not answer is alive until its peers
// have agreed, within seconds, that it is dead.
const (
	Alive MemberState = "alive"
	Dead  MemberState = "dead" // did not answer in time
	Left  MemberState = "left" // said good-bye
)

// Member is a node as gossip knows it.
type Member struct {
	lb.Member
	State  MemberState    `json:"state"`
	Ready  bool           `json:"ready"`  // says that it can serve
	Listed bool           `json:"listed"` // the current epoch has it
	View   uint16         `json:"view"`   // of its epoch list; equal views, equal rows
	Gossip netip.AddrPort `json:"gossip"`
	Since  time.Time      `json:"since"` // of State
	Self   bool           `json:"self"`
}

// Counters count since Open.
type Counters struct {
	WrongKey    uint64 // packets and streams that no key of ours opens, or in clear text
	WrongName   uint64 // of another cluster
	Malformed   uint64 // ours by key, not by content
	Forged      uint64 // said by one member for another
	Oversized   uint64 // beyond the bounds of its kind
	Replayed    uint64 // heard before, or older: without effect
	Unknown     uint64 // of a kind that a newer version may know
	Lost        uint64 // documents that lost to one made without knowing of them
	Conflicts   uint64 // another node claims a name that is taken
	Minted      uint64
	Learnt      uint64 // epochs from others
	Forgotten   uint64 // epochs that nobody needs, or beyond the 32 retained
	Dials       uint64 // of seeds
	DialsFailed uint64
	Dropped     uint64 // messages and events our bounded queues had no room for
}

// Cluster is this node's part in a cluster. Make one with Open.
type Cluster struct {
	options Options
	gossip  *gossip
	seeds   *seeds
	changed chan struct{}
	wake    chan struct{} // runRules: something changed
	events  chan lb.Event

	fetch   chan struct{} // runFetch: somebody has another document
	opened  time.Time
	reclaim time.Duration // that a name is free after its holder is gone

	mu          sync.Mutex // guards what follows; nothing is called out of it
	view        *view
	told        about                        // what gossip last told of us
	identity    *identity                    // who we are, and who the others are
	pinsChanged bool                         // and not yet saved
	sayings     map[string]map[string]saying // by member and part
	asked       map[[2]string]inquiry        // sayings on their way
	documents   register
	goodByes    map[string]uint64 // who left, and with which number of what it said of itself

	count struct {
		wrongKey, wrongName, malformed, conflicts  atomic.Uint64
		forged, oversized, replayed, unknown, lost atomic.Uint64
		minted, learnt, dropped                    atomic.Uint64
	}
}

// Open binds the gossip sockets and reads the saved epochs. Peers may reach us
// from now on; Run does the rest.
func Open(o Options) (*Cluster, error) { return open(o, production, nil) }

func open(o Options, t timing, wrap wrapTransport) (*Cluster, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Notify == nil {
		o.Notify = func(lb.Event) {}
	}
	c := &Cluster{
		options: o,
		changed: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		events:  make(chan lb.Event, 256),
		view:    newView(o.Self),
		fetch:   make(chan struct{}, 1),
		opened:  time.Now(),
		reclaim: t.reclaim,
		sayings: map[string]map[string]saying{},
		asked:   map[[2]string]inquiry{},

		documents: newRegister(), goodByes: map[string]uint64{},
	}
	var err error
	if c.identity, err = newIdentity(o.IdentityFile); err != nil {
		o.Log.Warn("a new identity", "error", err)
	}
	c.pinsChanged = true // it has another life
	c.view.seed = o.seed()
	c.load(c.view)
	c.seeds = newSeeds(c, o.Join, t.redial)
	if err := c.openGossip(t, wrap); err != nil {
		return nil, fmt.Errorf("open gossip of cluster %s on %s: %w", o.Name, o.Bind, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.sayKeys(); err != nil {
		return nil, err
	}
	return c, nil
}

func (o Options) check() error {
	switch bind := o.Bind.Addr(); {
	case o.Name == "" || len(o.Name) > maxName:
		return fmt.Errorf("cluster name %q: between 1 and %d bytes are needed", o.Name, maxName)
	case o.Self.Name == "" || len(o.Self.Name) > maxName:
		return fmt.Errorf("node name %q: between 1 and %d bytes are needed", o.Self.Name, maxName)
	case !o.Self.Address.IsValid():
		return fmt.Errorf("node %s has no address for its peers: set node.address", o.Self.Name)
	case !bind.IsValid():
		return errors.New("cluster.bind is not set")
	case len(o.Keys) == 0 && !bind.IsLoopback():
		return fmt.Errorf("cluster.bind %s is not a loopback address and there is no cluster.key_file: gossip is not sent in clear text (make a key with lbctl cluster key new)", o.Bind)
	}
	return nil
}

// Run joins and takes part until ctx ends. It does not leave: peers find out
// that we are gone, or that we are back. Leave says good-bye.
func (c *Cluster) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { c.runRules(ctx) })
	running.Go(func() { c.runEvents(ctx) })
	running.Go(func() { c.gossip.runAbout(ctx) })
	running.Go(func() { c.gossip.runSend(ctx) })
	running.Go(func() { c.gossip.runFetch(ctx) })
	running.Go(func() { c.gossip.runCompare(ctx) })
	running.Go(func() { c.seeds.run(ctx) })
	running.Wait()
	return nil
}

// runRules mints when the rules' waits are over and saves what changed.
func (c *Cluster) runRules(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var saved list
	for {
		again := c.settle()
		if l := c.list(); l.Firm && !l.equal(saved) {
			c.save(l)
			saved = l
		}
		c.saveIdentity()
		timer.Stop()
		if !again.IsZero() {
			timer.Reset(time.Until(again))
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
	}
}

func (c *Cluster) runEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-c.events:
			c.options.Notify(e)
		}
	}
}

// update changes the view and at once mints what the rules then ask for, so
// that nobody sees a list that we are about to replace.
func (c *Cluster) update(change func(*view)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.view)
	c.settleLocked()
	signal(c.wake)
}

func (c *Cluster) settle() (again time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settleLocked()
}

func (c *Cluster) settleLocked() time.Time {
	for {
		e, minted, again := c.view.mint(time.Now())
		if !minted {
			c.tellLocked()
			return again
		}
		c.count.minted.Add(1)
		c.event("epoch.minted", fmt.Sprint(e.Counter), describe(e))
		signal(c.changed)
		c.gossip.publish(e, c.view.peers)
	}
}

// tellLocked has gossip tell what changed about us.
func (c *Cluster) tellLocked() {
	v := c.view
	now := about{Boot: v.self.Boot, Address: v.self.Address, Weight: v.self.Weight, Ready: v.ready, Leaving: v.leaving, View: lb.View(v.epochs)}
	if now == c.told {
		return
	}
	c.told = now
	signal(c.changed)
	signal(c.gossip.dirty)
}

// learn takes in epochs from elsewhere.
func (c *Cluster) learn(epochs []lb.Epoch) {
	c.update(func(v *view) {
		for _, e := range v.merge(epochs) {
			c.count.learnt.Add(1)
			c.event("epoch.learnt", fmt.Sprint(e.Counter), describe(e))
			signal(c.changed)
			c.gossip.announce(e)
		}
	})
}

// adopt takes in the seed of a peer's list.
func (c *Cluster) adopt(l list) {
	c.update(func(v *view) {
		if had := v.firm; v.adopt([16]byte(l.Seed), l.Firm, l.Epochs) {
			signal(c.changed)
			if had {
				c.event("cluster.seed", c.options.Name, "another part of the cluster has another flow seed and the newer epoch: flows move")
			}
		}
	})
}

// list is what this node tells in a push/pull and keeps in its file.
func (c *Cluster) list() list {
	c.mu.Lock()
	defer c.mu.Unlock()
	return list{Seed: bytes.Clone(c.view.seed[:]), Firm: c.view.firm, Epochs: c.view.epochs, From: c.view.self.Name, Said: c.numbers()}
}

func (l list) equal(o list) bool {
	return bytes.Equal(l.Seed, o.Seed) && slices.EqualFunc(l.Epochs, o.Epochs, equalEpochs)
}

// hear takes in what gossip tells of another node.
func (c *Cluster) hear(p peer) {
	c.update(func(v *view) {
		before := v.peers[p.Name].state
		if v.hear(p) {
			signal(c.changed)
		}
		if before != p.state {
			c.event("member."+string(p.state), p.Name, p.gossip.String())
			signal(c.fetch) // who came may have a newer document
		}
	})
}

// question is what to ask of an announced epoch's holder, if we lack it.
func (c *Cluster) question(a announcement) (q question, holder peer, lacking bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q.From = c.view.self.Name
	for _, e := range c.view.epochs {
		q.Have = append(q.Have, announce(e, ""))
	}
	holder, known := c.view.peers[a.Holder]
	a.Holder = ""
	return q, holder, known && !slices.Contains(q.Have, a)
}

// answer is what the asker lacks.
func (c *Cluster) answer(q question) (epochs []lb.Epoch, from peer, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, known = c.view.peers[q.From]
	return lacking(c.view.epochs, q.Have), from, known
}

// synced notes that the full list is here, or that nobody has one.
func (c *Cluster) synced() {
	c.update(func(v *view) {
		if !v.synced {
			v.synced, v.firm = true, true
			signal(c.changed)
		}
	})
}

// SetReady says whether this node can serve. A ready node that the current
// epoch lacks adds itself as soon as it has the full list. One that is no
// longer ready stays listed: it is SetWeight(0) that takes its new flows away.
func (c *Cluster) SetReady(ready bool) { c.update(func(v *view) { v.ready = ready }) }

// SetWeight changes this node's weight in the next epoch: 0 drains it, its
// configured slots undrain it.
func (c *Cluster) SetWeight(weight int) {
	c.update(func(v *view) { v.self.Weight = min(max(weight, 0), maxWeight) })
}

// Synced reports whether we have heard the full epoch list from a peer, or
// that no peer answers.
func (c *Cluster) Synced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.synced
}

// Epochs lists what is agreed, newest first; it must not be changed.
func (c *Cluster) Epochs() []lb.Epoch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.epochs
}

// Members lists every node gossip knows, this one included, by name.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.view
	listed := func(name string) bool { _, ok := find(v.current().Members, name); return ok }
	members := []Member{{
		Member: v.self, State: Alive, Ready: v.ready, Listed: listed(v.self.Name),
		View: lb.View(v.epochs), Gossip: c.gossip.address, Since: c.gossip.opened, Self: true,
	}}
	for _, p := range v.peers {
		members = append(members, Member{
			Member: p.Member, State: p.state, Ready: p.ready, Listed: listed(p.Name),
			View: p.view, Gossip: p.gossip, Since: p.since,
		})
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return members
}

// Changed carries a token after Epochs, Members or Synced changed; tokens
// coalesce.
func (c *Cluster) Changed() <-chan struct{} { return c.changed }

// Counters reports what happened so far.
func (c *Cluster) Counters() Counters {
	c.mu.Lock()
	forgotten := c.view.forgotten
	c.mu.Unlock()
	n := &c.count
	return Counters{
		WrongKey: n.wrongKey.Load(), WrongName: n.wrongName.Load(), Malformed: n.malformed.Load(), Conflicts: n.conflicts.Load(),
		Forged: n.forged.Load(), Oversized: n.oversized.Load(), Replayed: n.replayed.Load(), Unknown: n.unknown.Load(), Lost: n.lost.Load(),
		Minted: n.minted.Load(), Learnt: n.learnt.Load(), Forgotten: forgotten, Dropped: n.dropped.Load(),
		Dials: c.seeds.dials.Load(), DialsFailed: c.seeds.failed.Load(),
	}
}

// Address is the gossip address that peers dial.
func (c *Cluster) Address() netip.AddrPort { return c.gossip.address }

// Leave takes this node out of the current epoch and says good-bye, within
// ctx. Connections it still has stay reachable through the previous epochs.
// Call it before Run's context ends.
func (c *Cluster) Leave(ctx context.Context) error {
	c.update(func(v *view) { v.leaving = true })
	if err := c.gossip.leave(ctx); err != nil {
		return fmt.Errorf("leave cluster %s: %w", c.options.Name, err)
	}
	return nil
}

// Close ends gossip without a good-bye and waits for what Open started.
func (c *Cluster) Close() error { return c.gossip.close() }

// event queues e for Notify; it never blocks.
func (c *Cluster) event(kind, subject, detail string) {
	select {
	case c.events <- lb.Event{Time: time.Now(), Kind: kind, Subject: subject, Detail: detail}:
	default:
		c.count.dropped.Add(1)
	}
}

// rarely is event for the 1st, 2nd, 4th, 8th… time only: what strangers send and
// seeds that are away for years must not fill the log.
func (c *Cluster) rarely(times uint64, kind, subject, detail string) {
	if times&(times-1) == 0 {
		c.event(kind, subject, fmt.Sprintf("%s (time %d)", detail, times))
	}
}

// describe is an epoch in one line: "3 by a: a=4 b=0".
func describe(e lb.Epoch) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d by %s:", e.Counter, e.Origin)
	for _, m := range e.Members {
		fmt.Fprintf(&b, " %s=%d", m.Name, m.Weight)
	}
	return b.String()
}

func equalEpochs(a, b lb.Epoch) bool { return a.Compare(b) == 0 && a.Digest() == b.Digest() }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
