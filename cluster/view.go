package cluster

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
)

// What the rules are made of. Only differences between times count, all from
// one monotonic clock: wall clocks play no part.
const (
	retained  = 32                     // epochs kept
	turn      = 300 * time.Millisecond // the k-th live member waits k turns before it removes a dead one
	patience  = 10 * time.Second       // for a member that an epoch lists while we do not hear it
	burst     = 8                      // epochs minted in a row before the rate limit holds
	refill    = time.Second            // per epoch minted in the long run
	maxMember = 4096                   // members of an epoch
	maxName   = 128                    // bytes of a member's name
	maxWeight = 1 << 16                // of a member
)

// view is what this node knows of the cluster, and the rules by which it mints
// epochs and merges those of others. It has no clock and sends nothing: equal
// calls make equal views.
//
// Invariant: epochs are newest first, strictly descending, at most retained.
type view struct {
	self    lb.Member // with the weight wanted now
	ready   bool      // can serve
	synced  bool      // has the full list, or nobody answers
	leaving bool

	seed   [16]byte // of the flow hash
	firm   bool     // seed is the cluster's, not just what our first key makes
	epochs []lb.Epoch
	peers  map[string]peer      // everybody else gossip ever told of
	absent map[string]time.Time // listed in the current epoch but not here: when its removal is due
	noted  lb.Epoch             // the current epoch as absent knows it

	minted    int // epochs minted since budget was full
	filled    time.Time
	forgotten uint64
	unwanted  map[uint64]bool // digests of epochs that nobody needs
}

// peer is another node as gossip last told of it.
type peer struct {
	lb.Member
	state  MemberState
	ready  bool
	view   uint16
	gossip netip.AddrPort
	since  time.Time
}

func (p peer) here() bool { return p.state == Alive }

func newView(self lb.Member) *view {
	return &view{self: self, peers: map[string]peer{}, absent: map[string]time.Time{}}
}

// current is the newest epoch, or the zero one.
func (v *view) current() lb.Epoch {
	if len(v.epochs) == 0 {
		return lb.Epoch{}
	}
	return v.epochs[0]
}

// merge adds epochs that others know and returns those that were new here. Two
// different epochs of one counter and origin (a node that lost its memory)
// leave the one with the greater digest, on every node.
func (v *view) merge(epochs []lb.Epoch) (learnt []lb.Epoch) {
	for _, e := range epochs {
		if !v.wants(e) {
			continue
		}
		i, found := slices.BinarySearchFunc(v.epochs, e, func(a, b lb.Epoch) int { return b.Compare(a) })
		switch {
		case found && v.epochs[i].Digest() >= e.Digest():
			continue
		case found:
			v.epochs = slices.Clone(v.epochs) // those handed out never change
			v.epochs[i] = e
		case i == retained:
			continue // older than all we keep
		default:
			v.epochs = slices.Insert(slices.Clone(v.epochs), i, e)
		}
		learnt = append(learnt, e)
	}
	if n := len(v.epochs); n > retained {
		v.epochs = v.epochs[:retained]
		v.forgotten += uint64(n - retained)
	}
	return learnt
}

// adopt decides between our seed and a peer's, before the peer's epochs are
// merged. A seed is made of the key that its cluster began with and outlives
// that key's rotation: another one would move every flow. Only parts that never
// met can have two; then that of the newer epoch stays, on both sides.
func (v *view) adopt(seed [16]byte, firm bool, epochs []lb.Epoch) (changed bool) {
	var newest lb.Epoch
	if len(epochs) > 0 {
		newest = epochs[0]
	}
	theirs := bytes.Compare(seed[:], v.seed[:]) > 0
	if firm && v.firm {
		theirs = cmp.Or(newest.Compare(v.current()), bytes.Compare(seed[:], v.seed[:])) > 0
	} else if firm != v.firm {
		theirs = firm
	}
	if !theirs {
		return false
	}
	changed = seed != v.seed
	v.seed, v.firm = seed, firm
	return changed
}

// mint makes the epoch that the rules ask this node for now, if any, and says
// when to ask again; zero: when something changes. The cluster's last member
// stays listed: nobody is left whom an empty epoch would serve.
func (v *view) mint(now time.Time) (e lb.Epoch, minted bool, again time.Time) {
	v.noteAbsent(now)
	members, again := v.wanted(now)
	current := v.current()
	if len(members) == 0 || slices.Equal(members, current.Members) {
		return lb.Epoch{}, false, again
	}
	if wait := v.budget(now); wait > 0 {
		return lb.Epoch{}, false, now.Add(wait)
	}
	e = lb.Epoch{Counter: current.Counter + 1, Origin: v.self.Name, Members: members}
	v.merge([]lb.Epoch{e})
	return e, true, now
}

// wanted applies the rules to the current epoch. Nil: nothing is to be minted.
func (v *view) wanted(now time.Time) (members []lb.Member, again time.Time) {
	current := v.current()
	i, listed := find(current.Members, v.self.Name)
	switch {
	case !v.synced:
		return nil, again
	case v.leaving:
		if !listed {
			return nil, again
		}
		return slices.Delete(slices.Clone(current.Members), i, i+1), again
	case !listed && v.ready:
		return v.joined(current.Members), again
	case !listed:
		return nil, again // only a node itself asks to be in, when it can serve
	}
	members = slices.Clone(current.Members)
	switch me := members[i]; {
	case v.ready:
		members[i] = v.self // a drain, a new weight, a new life
	case me.Boot != v.self.Boot:
		return slices.Delete(members, i, i+1), again // what is listed is our former life
	}
	return v.withoutDead(members, now)
}

// joined is the list with this node and with everybody who says ready, without
// those known to be gone. Who is listed and here keeps its entry: only the node
// concerned changes it.
func (v *view) joined(members []lb.Member) []lb.Member {
	set := map[string]lb.Member{v.self.Name: v.self}
	for _, m := range members {
		if p, known := v.peers[m.Name]; !known || p.here() {
			set[m.Name] = m
		}
	}
	for name, p := range v.peers {
		if _, listed := set[name]; !listed && p.here() && p.ready {
			set[name] = p.Member
		}
	}
	return slices.SortedFunc(maps.Values(set), func(a, b lb.Member) int { return cmp.Compare(a.Name, b.Name) })
}

// withoutDead takes out who is absent for as long as our rank asks us to wait.
func (v *view) withoutDead(members []lb.Member, now time.Time) (rest []lb.Member, again time.Time) {
	rank := v.rank(members)
	for _, m := range members {
		due, gone := v.absent[m.Name]
		if !gone {
			rest = append(rest, m)
			continue
		}
		due = due.Add(time.Duration(rank) * turn)
		if due.After(now) {
			rest = append(rest, m)
			again = earlier(again, due)
		}
	}
	return rest, again
}

// rank is how many members that are here come before this node.
func (v *view) rank(members []lb.Member) (rank int) {
	for _, m := range members {
		if m.Name < v.self.Name && v.peers[m.Name].here() {
			rank++
		}
	}
	return rank
}

// hear takes in what gossip tells of another node and says whether it matters.
// Of nodes that are gone at most maxMember are remembered.
func (v *view) hear(p peer) (changed bool) {
	old, known := v.peers[p.Name]
	if known && old.state == p.state {
		p.since = old.since
	}
	v.peers[p.Name] = p
	if len(v.peers) > maxMember {
		v.forgetOldest()
	}
	return !known || old != p
}

func (v *view) forgetOldest() {
	var oldest string
	for name, p := range v.peers {
		if !p.here() && (oldest == "" || p.since.Before(v.peers[oldest].since)) {
			oldest = name
		}
	}
	delete(v.peers, oldest)
}

// noteAbsent keeps absent in step with the current epoch and with gossip. A
// member that dies while listed is due at once. One that a new epoch lists
// although we think it dead, or never heard it, gets our patience: who minted
// that epoch knows something that will reach us, too.
func (v *view) noteAbsent(now time.Time) {
	if !v.synced {
		return // we have not asked anybody yet
	}
	current := v.current()
	absent := map[string]time.Time{}
	for _, m := range current.Members {
		due, already := v.absent[m.Name]
		_, before := find(v.noted.Members, m.Name)
		switch {
		case m.Name == v.self.Name || v.peers[m.Name].here():
		case already:
			absent[m.Name] = due
		case before:
			absent[m.Name] = now
		default:
			absent[m.Name] = now.Add(patience)
		}
	}
	v.absent, v.noted = absent, current
}

// budget takes one epoch from the rate limit or says how long to wait. It holds
// back two nodes that disagree for ever (a link that works one way); everything
// else mints far less.
func (v *view) budget(now time.Time) (wait time.Duration) {
	if n := int(now.Sub(v.filled) / refill); n >= v.minted {
		v.minted, v.filled = 0, now
	} else {
		v.minted -= n
		v.filled = v.filled.Add(time.Duration(n) * refill)
	}
	if v.minted >= burst {
		return v.filled.Add(refill).Sub(now)
	}
	v.minted++
	return 0
}

// valid refuses an epoch that no node following the rules could have minted.
func valid(e lb.Epoch) error {
	switch {
	case e.Counter == 0 || e.Counter >= 1<<62:
		return fmt.Errorf("counter %d out of range", e.Counter)
	case e.Origin == "" || len(e.Origin) > maxName:
		return errors.New("no valid origin")
	case len(e.Members) > maxMember:
		return fmt.Errorf("%d members", len(e.Members))
	}
	last := ""
	for _, m := range e.Members {
		switch {
		case m.Name <= last || len(m.Name) > maxName:
			return fmt.Errorf("member %q is out of order", m.Name)
		case m.Weight < 0 || m.Weight > maxWeight:
			return fmt.Errorf("member %s has weight %d", m.Name, m.Weight)
		case !m.Address.IsValid():
			return fmt.Errorf("member %s has no address", m.Name)
		}
		last = m.Name
	}
	return nil
}

func find(members []lb.Member, name string) (int, bool) {
	return slices.BinarySearchFunc(members, name, func(m lb.Member, name string) int { return cmp.Compare(m.Name, name) })
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
