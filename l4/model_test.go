package l4

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb"
)

// A model is a cluster, its flows and the network between its nodes.
type model struct {
	t     *rapid.T
	nodes []*modelNode
	flows []*modelFlow
	ports int
	split bool
	made  uint64 // the newest counter
}

// reset takes everything back to three living nodes of one epoch.
func (m *model) reset() {
	first := lb.Epoch{Counter: 1, Origin: "edge-1"}
	for _, n := range m.nodes {
		first.Members = append(first.Members, n.member)
	}
	for _, n := range m.nodes {
		n.alive, n.side, n.known, n.sockets = true, 0, nil, map[*modelFlow]int{}
		n.learn([]lb.Epoch{first}, nil)
	}
	m.made = 1
}

func (m *model) end() {
	for len(m.flows) > 0 {
		m.finish(m.flows[0])
	}
}

func (m *model) finish(f *modelFlow) {
	if f.owner.alive {
		f.owner.close(f)
	}
	m.flows = slices.DeleteFunc(m.flows, func(o *modelFlow) bool { return o == f })
}

const anySide = -1

func (m *model) living() (alive []*modelNode) {
	for _, n := range m.nodes {
		if n.alive {
			alive = append(alive, n)
		}
	}
	return alive
}

// gone lists who is dead, or seems so to a side: neither gossip nor the datapath
// answers.
func (m *model) gone(side int) (names []string) {
	for _, n := range m.nodes {
		if !n.alive || side != anySide && n.side != side {
			names = append(names, n.member.Name)
		}
	}
	return names
}

// newest is everything that is known on a side.
func (m *model) newest(side int) (all []lb.Epoch) {
	for _, n := range m.living() {
		for _, e := range n.known {
			if i, found := slices.BinarySearchFunc(all, e, func(a, b lb.Epoch) int { return b.Compare(a) }); n.side == side && !found {
				all = slices.Insert(all, i, e)
			}
		}
	}
	return all
}

// owners is the model of a row: its owners, newest first, each once. A member
// that is gone is no earlier owner.
func owners(epochs []lb.Epoch, row int, gone []string) (names []string) {
	for i, e := range epochs {
		at := cachedOwners(e)[row]
		if at < 0 {
			if i == 0 {
				names = append(names, "") // nobody takes its place among the three
			}
			continue
		}
		if name := e.Members[at].Name; !slices.Contains(names, name) && (i == 0 || !slices.Contains(gone, name)) {
			names = append(names, name)
		}
	}
	return names
}

var ownersCache = map[uint64][]int16{}

func cachedOwners(e lb.Epoch) []int16 {
	d := e.Digest()
	if ownersCache[d] == nil {
		ownersCache[d] = Owners(e.Members)
	}
	return ownersCache[d]
}

// deliver sends a frame to a node and on, as far as the programs and the
// network take it; where is nil when it is lost.
func (m *model) deliver(f []byte, at *modelNode) (where *modelNode, reason lb.Reason) {
	for range 5 {
		verdict, why, out := at.receive(f)
		switch verdict {
		case pass:
			return at, why
		case redirect:
		default:
			return nil, why
		}
		to := netip.AddrFrom4([4]byte(out[30:34]))
		i := slices.IndexFunc(m.nodes, func(n *modelNode) bool { return n.member.Address == to })
		if i < 0 {
			m.t.Fatalf("%s sends a packet to %s, who is nobody", at.member.Name, to)
		}
		if next := m.nodes[i]; next.alive && next.side == at.side {
			at, f = next, out
		} else {
			return nil, "lost"
		}
	}
	m.t.Fatal("a packet goes round")
	return nil, ""
}

// deliverAll delivers a segment of a flow. All its fragments end where the first
// does, or none of the others gets further than to be dropped on the way.
func (m *model) deliverAll(f *modelFlow) (where *modelNode, reason lb.Reason) {
	for i, part := range f.frames() {
		at, why := m.deliver(part, f.ingress)
		if i == 0 {
			where, reason = at, why
		} else if at != where {
			m.t.Fatalf("the first fragment ended for %s, fragment %d for %s, elsewhere", reason, i, why)
		}
	}
	return where, reason
}

// open begins a connection.
func (m *model) open() {
	m.ports++
	f := &modelFlow{port: 1024 + m.ports%60000, ingress: m.draw(m.living(), "ingress"), parts: rapid.Bool().Draw(m.t, "in fragments")}
	where, reason := m.deliver(f.frame("S"), f.ingress)
	want := owners(f.ingress.known, f.row(), nil)
	if where == nil {
		if reason != "lost" && reason != lb.XDPNoOwner {
			m.t.Fatalf("a SYN is dropped for %s", reason)
		}
		return
	}
	if where.member.Name != want[0] {
		m.t.Fatalf("a SYN came to %s, the row's owner is %s", where.member.Name, want[0])
	}
	if err := where.accept(f); err != nil {
		m.t.Fatal(err)
	}
	f.owner = where
	m.flows = append(m.flows, f)
}

// talk sends a segment of each connection. Whose ingress has every epoch of its
// side must reach its socket, or get lost on the way to a dead or cut off node.
// Elsewhere it may be held, but never be reset by a node that knows that the
// ingress sees other epochs than itself.
func (m *model) talk() {
	for _, f := range slices.Clone(m.flows) {
		where, reason := m.deliverAll(f)
		current := slices.Equal(digests(f.ingress.known), digests(m.newest(f.ingress.side)))
		chain := owners(f.ingress.known, f.row(), m.gone(f.ingress.side))
		known := slices.Contains(chain[:min(maxChain, len(chain))], f.owner.member.Name)
		reachable := f.owner.side == f.ingress.side
		switch {
		case where == f.owner, where == nil && reason == "lost" && !reachable:
		case current && known && reachable:
			m.t.Fatalf("row %d, owners %v, connection of %s: its segment by %s ended at %s for %s", f.row(), chain, f.owner.member.Name, f.ingress.member.Name, where, reason)
		case where == nil: // held, or lost
		case where.alive && slices.Equal(digests(where.known), digests(f.ingress.known)):
			// Both are behind the others: the moment that nobody can know of.
		default:
			m.t.Fatalf("row %d, owners %v, connection of %s: reset by %s for %s", f.row(), chain, f.owner.member.Name, where.member.Name, reason)
		}
	}
}

func (n *modelNode) String() string {
	if n == nil {
		return "nobody"
	}
	return n.member.Name
}

func digests(epochs []lb.Epoch) (d []uint64) {
	for _, e := range epochs {
		d = append(d, e.Digest())
	}
	return d
}

// mint makes an epoch on a side; one node has it at once, the others may not.
// Connections that would have more than two owners after theirs have ended:
// that is what retention and drains see to.
func (m *model) mint(minter *modelNode, edit func([]lb.Member) []lb.Member) {
	newest := m.newest(minter.side)
	m.made = max(m.made, newest[0].Counter) + 1
	e := lb.Epoch{Counter: m.made, Origin: minter.member.Name, Members: edit(slices.Clone(newest[0].Members))}
	for _, f := range slices.Clone(m.flows) {
		all := owners(append([]lb.Epoch{e}, m.everything()...), f.row(), m.gone(anySide))
		if i := slices.Index(all, f.owner.member.Name); i < 0 || i >= maxChain {
			m.finish(f)
		}
	}
	minter.learn(append([]lb.Epoch{e}, newest...), m.gone(minter.side))
}

// draw chooses a node.
func (m *model) draw(from []*modelNode, what string) *modelNode {
	return from[rapid.IntRange(0, len(from)-1).Draw(m.t, what)]
}

// everything is what both sides know.
func (m *model) everything() []lb.Epoch {
	all := m.newest(0)
	for _, e := range m.newest(1) {
		if i, found := slices.BinarySearchFunc(all, e, func(a, b lb.Epoch) int { return b.Compare(a) }); !found {
			all = slices.Insert(all, i, e)
		}
	}
	return all
}

// weigh drains a node or takes the drain back.
func (m *model) weigh() {
	n := m.draw(m.living(), "weighed")
	w := rapid.SampledFrom([]int{0, 4, 8}).Draw(m.t, "weight")
	m.mint(n, func(members []lb.Member) []lb.Member {
		for i := range members {
			if members[i].Name == n.member.Name {
				members[i].Weight = w
			}
		}
		return members
	})
}

// die kills a node: its connections are gone, and another takes it out.
func (m *model) die() {
	if len(m.living()) < 3 || m.split {
		return
	}
	n := m.draw(m.living(), "dies")
	for _, f := range slices.Clone(m.flows) {
		if f.owner == n {
			m.finish(f)
		}
	}
	n.alive = false
	heir := m.draw(m.living(), "mints")
	m.mint(heir, func(members []lb.Member) []lb.Member {
		return slices.DeleteFunc(members, func(o lb.Member) bool { return o.Name == n.member.Name })
	})
	for _, f := range m.flows {
		if f.ingress == n {
			f.ingress = heir
		}
	}
}

// rejoin brings a dead node back, in a new life.
func (m *model) rejoin() {
	for _, n := range m.nodes {
		if n.alive || m.split {
			continue
		}
		n.alive = true
		n.member.Boot[7]++
		n.sockets, n.known = map[*modelFlow]int{}, nil
		n.learn(m.newest(0), m.gone(0))
		m.mint(n, func(members []lb.Member) []lb.Member {
			members = slices.DeleteFunc(members, func(o lb.Member) bool { return o.Name == n.member.Name })
			members = append(members, n.member)
			slices.SortFunc(members, func(a, b lb.Member) int { return int(a.Boot[0]) - int(b.Boot[0]) })
			return members
		})
		return
	}
}

// gossip brings a node up to date with its side.
func (m *model) gossip() {
	n := m.draw(m.living(), "learns")
	n.learn(m.newest(n.side), m.gone(n.side))
}

func (m *model) gossipAll() {
	for _, n := range m.living() {
		n.learn(m.newest(n.side), m.gone(n.side))
	}
}

// move sends a connection's packets to another node of the ingress's side.
func (m *model) move() {
	for _, f := range m.flows {
		var there []*modelNode
		for _, n := range m.living() {
			if n.side == f.ingress.side {
				there = append(there, n)
			}
		}
		f.ingress = m.draw(there, "moves to")
	}
}

// partition cuts one node off; both sides take each other out.
func (m *model) partition() {
	if m.split || len(m.living()) < 3 {
		return
	}
	m.gossipAll()
	alone := m.draw(m.living(), "cut off")
	m.split, alone.side = true, 1
	for _, minter := range []*modelNode{alone, m.other(alone)} {
		m.mint(minter, func(members []lb.Member) []lb.Member {
			return slices.DeleteFunc(members, func(o lb.Member) bool {
				return slices.ContainsFunc(m.nodes, func(n *modelNode) bool { return n.member.Name == o.Name && n.side != minter.side })
			})
		})
	}
	m.gossipAll()
}

func (m *model) other(n *modelNode) *modelNode {
	i := slices.IndexFunc(m.nodes, func(o *modelNode) bool { return o.alive && o.side != n.side })
	return m.nodes[i]
}

// heal joins the sides; the nodes hear of each other's epochs later, by gossip.
func (m *model) heal() {
	m.split = false
	for _, n := range m.nodes {
		n.side = 0
	}
	m.gossipAll()
}

func TestNoConnectionWhoseOwnerLivesIsLost(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("takes a while")
	}
	var nodes []*modelNode
	for _, m := range []lb.Member{edge1, edge2, edge3} {
		nodes = append(nodes, newModelNode(t, m))
	}
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: rt, nodes: nodes}
		m.reset()
		defer m.end()
		for range 4 {
			m.open()
		}
		steps := []string{"open", "open", "weigh", "weigh", "die", "rejoin", "gossip", "gossip", "gossip all", "move", "partition", "heal"}
		for range rapid.IntRange(3, 10).Draw(rt, "steps") {
			switch rapid.SampledFrom(steps).Draw(rt, "step") {
			case "open":
				m.open()
			case "weigh":
				m.weigh()
			case "die":
				m.die()
			case "rejoin":
				m.rejoin()
			case "gossip":
				m.gossip()
			case "gossip all":
				m.gossipAll()
			case "move":
				m.move()
			case "partition":
				m.partition()
			case "heal":
				m.heal()
			}
			m.talk()
		}
		m.heal()
		m.talk()
	})
}
