package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/cirque-lb/lb"
)

// NodeMeta is what gossip tells of us.
func (g *gossip) NodeMeta(limit int) []byte {
	c := g.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	meta := c.identity.seal(c.aboutContext(g.name, g.address), plainJSON(signedAbout{c.told, speaks, c.identity.next(), c.identity.public()}))
	if len(meta) > limit {
		panic(fmt.Sprintf("metadata of %d bytes", len(meta))) // it has a fixed size
	}
	return meta
}

// aboutContext is what an about is signed for: this name at this address.
func (c *Cluster) aboutContext(name string, at netip.AddrPort) string {
	return c.context("about " + name + " at " + at.String())
}

// NotifyAlive refuses what is said of a node by anybody but itself. memberlist
// lets every node pass on, and so make up, what it heard of another one.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	err := g.cluster.believe(n.Name, addrPort(n), n.Meta)
	if err != nil && !errors.Is(err, errReplayed) { // old news travel, too
		g.refused(fmt.Errorf("%s at %s: %w", n.Name, addrPort(n), err))
	}
	return err
}

// believe decides whether an about is its node's own and none that is older
// than what is known.
func (c *Cluster) believe(name string, at netip.AddrPort, meta []byte) error {
	var a signedAbout
	if err := json.Unmarshal(meta, &a); err != nil {
		return fmt.Errorf("read metadata of %s: %w", name, err)
	}
	signed := len(a.Key) > 0 && sealedBy(a.Key, c.aboutContext(name, at), meta)
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.identity
	switch known, pinned := id.pins[name]; {
	case name == c.view.self.Name:
		if signed && bytes.Equal(a.Key, id.public()) && a.Seq > id.seq {
			id.beyond(a.Seq) // of a life that we forgot; memberlist makes us speak up
			c.pinsChanged = true
			signal(c.gossip.dirty)
		}
		return nil
	case !signed && len(a.Key) > 0:
		return errForged
	case !signed && !pinned:
		return nil // of version 1
	case !signed:
		if c.freeFor(name) < c.reclaim {
			return errForged
		}
		delete(id.pins, name)
		return nil
	case pinned && bytes.Equal(known.Key, a.Key) && a.Seq < known.Seq:
		return errReplayed
	}
	before := id.pins[name].Key
	first, err := c.vouch(name, a.Key, c.freeFor(name))
	if err != nil {
		return err
	}
	if first && before != nil {
		c.event("member.rekeyed", name, "another key speaks for it: it was installed anew, or the identity file was lost")
	}
	p := id.pins[name]
	p.Seq = a.Seq
	id.pins[name] = p
	if first {
		signal(c.wake)
	}
	return nil
}

// GetBroadcasts hands announcements to UDP gossip.
func (g *gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.queue.GetBroadcasts(overhead, limit)
}

// LocalState is our list, for a push/pull.
func (g *gossip) LocalState(bool) []byte { return encode(kindList, g.cluster.list()) }

// MergeRemoteState is a peer's list, by a push/pull.
func (g *gossip) MergeRemoteState(message []byte, _ bool) {
	g.NotifyMsg(message)
}

// NotifyJoin is a node that is here, for the first time or again.
func (g *gossip) NotifyJoin(n *memberlist.Node) {
	g.nodes.Add(1)
	g.hear(n, Alive)
}

// NotifyUpdate is a node that tells something new of itself.
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.hear(n, Alive) }

// NotifyLeave is a node that is gone: it said so before, or it is dead.
func (g *gossip) NotifyLeave(n *memberlist.Node) {
	g.nodes.Add(-1)
	g.hear(n, Dead)
}

// NotifyConflict is a second node with the name of a living one.
func (g *gossip) NotifyConflict(old, other *memberlist.Node) {
	g.cluster.count.conflicts.Add(1)
	g.cluster.event("member.conflict", old.Name, fmt.Sprintf("%s claims the name of %s", other.Address(), old.Address()))
}

func (g *gossip) hear(n *memberlist.Node, state MemberState) {
	if n.Name == g.name {
		return
	}
	var a signedAbout
	if err := json.Unmarshal(n.Meta, &a); err != nil {
		g.refused(fmt.Errorf("read metadata of %s: %w", n.Name, err))
		return
	}
	if leaves := g.cluster.leaves(n.Name, a); leaves && state == Dead {
		state = Left
	}
	g.cluster.hear(peer{
		Member: lb.Member{Name: n.Name, Boot: a.Boot, Address: a.Address, Weight: min(max(a.Weight, 0), maxWeight)},
		state:  state, ready: a.Ready && !a.Leaving && a.Address.IsValid(), view: a.View,
		gossip: addrPort(n), since: time.Now(),
	})
}

func addrPort(n *memberlist.Node) netip.AddrPort {
	address, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(address.Unmap(), n.Port)
}
