package cluster

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/cirque-lb/lb"
)

// Any member may mint an epoch, and so one that says something of another member:
// its address is refused, its weight and its place are set right by whom it is
// about.
func TestAnEpochSendsNobodysFlowsElsewhere(t *testing.T) {
	n := newNetwork(t)
	a, b := n.start("a"), n.start("b")
	n.start("c")
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	forge := func(change func(members []lb.Member) []lb.Member) lb.Epoch {
		now := a.Epochs()[0]
		return lb.Epoch{Counter: now.Counter + 1, Origin: "c", Members: change(slices.Clone(now.Members))}
	}
	elsewhere := func() lb.Epoch {
		return forge(func(m []lb.Member) []lb.Member { m[1].Address = netip.MustParseAddr("10.9.9.9"); return m })
	}
	n.settled("b")
	before := a.Counters().Forged
	forged := elsewhere()
	a.gossip.NotifyMsg(encode(kindEpochs, []lb.Epoch{forged}))
	a.gossip.NotifyMsg(encode(kindList, list{Seed: make([]byte, 16), Epochs: []lb.Epoch{forged}}))
	if got := a.Counters().Forged - before; got != 2 || slices.ContainsFunc(a.Epochs(), func(e lb.Epoch) bool { return equalEpochs(e, forged) }) {
		t.Errorf("refused %d times, want 2; epochs %s", got, lines(a.Epochs()))
	}
	b.gossip.NotifyMsg(encode(kindEpochs, []lb.Epoch{elsewhere()})) // it sets it right
	n.settled("b")
	for _, lie := range []func(m []lb.Member) []lb.Member{
		func(m []lb.Member) []lb.Member { m[1].Weight = 0; return m },          // b drains
		func(m []lb.Member) []lb.Member { return slices.Delete(m, 1, 2) },      // b is dead
		func(m []lb.Member) []lb.Member { m[1].Boot = lb.BootID{9}; return m }, // b's kernel began anew
	} {
		a.gossip.NotifyMsg(encode(kindEpochs, []lb.Epoch{forge(lie)}))
		n.settled("b")
	}
}

// settled waits until all of three have one epoch, with a member as it is.
func (n *network) settled(name string) {
	n.t.Helper()
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	n.eventually("what all say of themselves", func(c *Cluster) bool {
		return !slices.ContainsFunc(c.Members(), func(m Member) bool { return m.Member != self(m.Name) })
	}, "a", "b", "c")
	n.eventually(name+" as it is", func(c *Cluster) bool {
		members := c.Epochs()[0].Members
		i, listed := find(members, name)
		return listed && members[i] == self(name)
	}, "a", "b", "c")
}
