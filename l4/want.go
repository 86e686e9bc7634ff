package l4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// limits bound what one Steering may hold. Half of a map, so that an old and a
// new Steering fit together while one turns into the other.
var limits = []struct {
	what string
	most int
	size func(lb.Steering) int
}{
	{"VIPs", bpf.VIPs/2 - 1, func(s lb.Steering) int { return len(s.VIPs) + len(s.Services) }},
	{"binds", bpf.Binds / 2, func(s lb.Steering) int { return len(s.Binds) }},
	{"sources", bpf.Sources / 2, func(s lb.Steering) int { return len(s.Sources) }},
	{"services", bpf.Services/2 - 1, func(s lb.Steering) int { return len(s.Services) }},
	{"backends of services", bpf.Backends/2 - 1, backendsOf},
	{"tags", 2, func(s lb.Steering) int { return len(s.Tags) }},
}

// ticksPerSecond is how often the programs' clock ticks.
const ticksPerSecond = 4

// A planner derives tables from a Steering. It keeps what is costly and what
// must not change between two calls: the rows of each epoch.
type planner struct {
	address netip.Addr                   // the node's
	owners  map[uint64][]int16           // by an epoch's digest
	cookie  func(fd int) (uint64, error) // of a socket
	last    *derivation                  // most calls bring the same epochs
	away    *away                        // and the same stand-ins
	rings   map[uint32]placed            // most calls bring the same backends
}

// derivation is what follows from a list of epochs. It is never changed.
type derivation struct {
	digests []uint64 // of the epochs
	gone    []string // members that are
	members []lb.Member
	chains  []chain  // of each row: indexes of members
	local   []uint16 // each member's index among our peers
	rows    []uint64 // as the programs read them
}

// plan returns the tables that s asks for. Numbers that have already stand for
// a peer, a VIP or a socket stay, and a number whose holder goes is not given
// away before it is out of have.
func (p *planner) plan(s lb.Steering, have tables) (tables, error) {
	for _, l := range limits {
		if n := l.size(s); n > l.most {
			return tables{}, fmt.Errorf("%d %s are too many: at most %d", n, l.what, l.most)
		}
	}
	want := newTables(nil)
	if err := p.planSlots(s.Binds, have, &want); err != nil {
		return tables{}, err
	}
	if err := p.planRows(s, have, &want); err != nil {
		return tables{}, err
	}
	planSources(s.Sources, &want)
	want.limits = bpf.Limits{Packets: uint32(s.Limits.Packets), SYNs: uint32(s.Limits.SYNs)}
	numbers, err := p.planServices(s, have, &want)
	if err != nil {
		return tables{}, err
	}
	if err := planVIPs(s, numbers, have, &want); err != nil {
		return tables{}, err
	}
	want.node = p.planNode(s, have, want)
	return want, nil
}

func (p *planner) planNode(s lb.Steering, have, want tables) bpf.Node {
	n := bpf.Node{
		Seed:           [2]uint64{binary.LittleEndian.Uint64(s.Seed[:8]), binary.LittleEndian.Uint64(s.Seed[8:])},
		YoungUntil:     have.node.YoungUntil,
		UnsettledUntil: have.node.UnsettledUntil,
		Flags:          have.node.Flags & bpf.NodeCaptured,
	}
	if p.address.IsValid() {
		n.Address = bpf.AddressOf(p.address)
	}
	n.OuterIP = 20
	if s.Misses > 0 {
		n.Misses = uint32(max(1, s.Misses/ticksPerSecond))
	}
	if p.address.Is6() {
		n.OuterIP = 40
	}
	binary.BigEndian.PutUint16(n.View[:], lb.View(s.Epochs))
	for i, tag := range s.Tags {
		n.Flags |= bpf.NodeTunnels
		binary.BigEndian.PutUint32(n.Tag[i][:], tag)
	}
	if len(s.Tags) == 1 {
		n.Tag[1] = n.Tag[0]
	}
	for _, b := range want.binds {
		if b.Live > 0 {
			n.Flags |= bpf.NodeServes
		}
	}
	if len(s.Sources) > 0 || s.Limits != (lb.SourceLimits{}) {
		n.Flags |= bpf.NodeGuarded
	}
	return n
}

// planSlots gives each socket an index and each bind its live ones.
func (p *planner) planSlots(binds []lb.SteeredBind, have tables, want *tables) error {
	index := inverse(have.slots)
	free := freeNumbers(have.slots, bpf.Slots, 0)
	for _, b := range binds {
		var all, live []uint16
		for i, fd := range b.Sockets {
			if fd < 0 {
				continue
			}
			cookie, err := p.cookie(fd)
			if err != nil {
				return fmt.Errorf("identify the listening socket of slot %d of %s: %w", i, b.Bind, err)
			}
			at, known := index[cookie]
			if !known {
				if at, known = free(); !known {
					return fmt.Errorf("more than %d listening sockets", bpf.Slots)
				}
				index[cookie] = at
			}
			want.slots[at] = cookie
			all = append(all, uint16(at))
			if i < len(b.Live) && b.Live[i] {
				live = append(live, uint16(at))
			}
		}
		if len(live) == 0 {
			live = all // no slot seems alive: one that is wrong about it may still serve
		}
		if len(live) > bpf.BindSlots {
			return fmt.Errorf("%s has %d slots: at most %d", b.Bind, len(live), bpf.BindSlots)
		}
		if len(live) == 0 {
			continue // nobody listens: the kernel refuses connections by itself
		}
		value := bpf.Bind{Live: uint32(len(live))}
		copy(value.Slot[:], live)
		want.binds[bindKey(b.Bind)] = value
	}
	return nil
}

// bindKey names a bind. 0.0.0.0 is any IPv4 address, :: any address.
func bindKey(b netip.AddrPort) bpf.BindKey {
	return bpf.BindKey{Address: bpf.AddressOf(b.Addr()), Port: b.Port(), Protocol: uint8(lb.TCP)}
}

// planRows numbers the peers and writes the rows with these numbers.
func (p *planner) planRows(s lb.Steering, have tables, want *tables) error {
	if p.address.IsValid() {
		want.peers[bpf.Self] = bpf.AddressOf(p.address)
	}
	d := p.derive(s.Epochs, s.Gone)
	local, err := p.number(d.members, s.Self, have, want)
	if err != nil {
		return err
	}
	if d.rows == nil || !slices.Equal(local, d.local) {
		d = &derivation{digests: d.digests, gone: d.gone, members: d.members, chains: d.chains, local: local, rows: d.pack(local)}
	}
	p.last, want.rows = d, d.rows
	if len(s.Away)+len(s.WasAway) > 0 && len(s.Epochs) > 0 {
		want.rows = p.standIns(s, d)
	}
	return nil
}

// derive returns the chains of the epochs: the last ones when nothing changed.
func (p *planner) derive(epochs []lb.Epoch, gone []string) *derivation {
	var digests []uint64
	for _, e := range epochs {
		digests = append(digests, e.Digest())
	}
	if p.last != nil && slices.Equal(p.last.digests, digests) && slices.Equal(p.last.gone, gone) {
		return p.last
	}
	d := &derivation{digests: digests, gone: gone}
	if len(epochs) > 0 {
		d.members, d.chains = chains(epochs, gone, p.ownersOf)
		p.forget(epochs)
	}
	return d
}

// pack writes the rows; without an epoch all are ours.
func (d *derivation) pack(local []uint16) []uint64 {
	rows := make([]uint64, lb.Rows)
	for row := range rows {
		if len(d.chains) == 0 {
			rows[row] = bpf.Self
		} else {
			rows[row] = d.chains[row].pack(local)
		}
	}
	return rows
}

// number returns the local index of each member.
func (p *planner) number(members []lb.Member, self string, have tables, want *tables) ([]uint16, error) {
	index := inverse(have.peers)
	free := freeNumbers(have.peers, bpf.Peers, bpf.Self+1)
	local := make([]uint16, len(members))
	for i, m := range members {
		if m.Name == self || p.address.IsValid() && m.Address.Unmap() == p.address {
			local[i] = bpf.Self // peers send to both what is for either
			continue
		}
		if p.apart(m) {
			continue // it owns no row
		}
		address := bpf.AddressOf(m.Address)
		at, known := index[address]
		if !known || at == bpf.Self {
			if at, known = free(); !known {
				return nil, fmt.Errorf("%d members are too many: at most %d", len(members), bpf.Peers-2)
			}
			index[address] = at
		}
		local[i] = uint16(at)
		want.peers[at] = address
	}
	return local, nil
}

func (p *planner) ownersOf(e lb.Epoch) []int16 {
	digest := e.Digest()
	if p.owners[digest] == nil {
		members := slices.Clone(e.Members)
		for i, m := range members {
			if p.apart(m) {
				members[i].Weight = 0
			}
		}
		p.owners[digest] = Owners(members)
	}
	return p.owners[digest]
}

// apart reports whether no packet of ours can be sent to a member: its address is
// of the other IP version. All that have this node's version share its rows.
func (p *planner) apart(m lb.Member) bool { return m.Address.Unmap().Is4() != p.address.Is4() }

// misplaced says which members have an address that they should not have.
func (p *planner) misplaced(s lb.Steering) (problems []string) {
	if len(s.Epochs) == 0 {
		return nil
	}
	for _, m := range s.Epochs[0].Members {
		switch {
		case m.Name == s.Self:
		case p.apart(m):
			problems = append(problems, fmt.Sprintf("member %s has the address %s and this node %s: one fabric has one IP version, so neither sends packets to the other (node.address)", m.Name, m.Address, p.address))
		case m.Address.Unmap() == p.address:
			problems = append(problems, fmt.Sprintf("member %s has this node's address %s: what is for either may come to either (node.address)", m.Name, p.address))
		}
	}
	return problems
}

// forget drops the rows of epochs that are gone.
func (p *planner) forget(epochs []lb.Epoch) {
	for digest := range p.owners {
		if !slices.ContainsFunc(epochs, func(e lb.Epoch) bool { return e.Digest() == digest }) {
			delete(p.owners, digest)
		}
	}
}

// planVIPs gives each VIP address a place in the table and its ports a number.
// Changed ports get a new number, so that the change is one store.
func planVIPs(s lb.Steering, services map[lb.VIP]uint32, have tables, want *tables) error {
	served, err := portsOf(s, services)
	if err != nil {
		return err
	}
	places := map[bpf.Address]uint32{}
	for place, e := range have.vipTable {
		places[e.Address] = place
	}
	free := freeNumbers(have.vips, bpf.VIPs, 1)
	for _, address := range slices.SortedFunc(maps.Keys(served), bpf.Address.Compare) {
		place, known := places[address]
		number := have.vipTable[place].VIP
		if !known {
			if place, known = freePlace(address, have.vipTable, want.vipTable); !known {
				return fmt.Errorf("the table of VIPs has no room for %s", address.Addr())
			}
			number = 0
		}
		if number == 0 || have.vips[number] != served[address] {
			number, _ = free() // have and want together have fewer VIPs than there are numbers
		}
		want.vips[number] = served[address]
		want.vipTable[place] = bpf.VIPEntry{Address: address, VIP: number}
		want.routes[address.Addr()] = true
	}
	return nil
}

// portsOf lists what each VIP address serves, any port last.
func portsOf(s lb.Steering, services map[lb.VIP]uint32) (map[bpf.Address]bpf.VIP, error) {
	vips := slices.AppendSeq(slices.Clone(s.VIPs), maps.Keys(services))
	slices.SortFunc(vips, func(a, b lb.VIP) int {
		return cmp.Or(a.Addr.Compare(b.Addr), -cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	served := map[bpf.Address]bpf.VIP{}
	for _, v := range slices.Compact(vips) {
		address := bpf.AddressOf(v.Addr)
		value := served[address]
		if value.Ports == bpf.VIPPorts {
			return nil, fmt.Errorf("VIP %s has more than %d ports: use any port (0)", v.Addr, bpf.VIPPorts)
		}
		port := &value.Port[value.Ports]
		port.Protocol, port.Service = uint8(v.Protocol), services[v]
		if slices.Contains(s.Here, v) {
			port.Flags |= bpf.ServedHere
		}
		if slices.Contains(s.WasHere, v) {
			port.Flags |= bpf.ServedWasHere
		}
		if slices.Contains(s.Away, v) {
			port.Flags |= bpf.ServedAway
		}
		if slices.Contains(s.WasAway, v) {
			port.Flags |= bpf.ServedWasAway
		}
		binary.BigEndian.PutUint16(port.Port[:], v.Port)
		if v.Protocol == lb.UDP {
			value.AnyUDP = port.Port
		} else {
			value.AnyTCP = port.Port
		}
		if takesFragments(s, v.Addr) {
			value.Flags = bpf.VIPFragments
		}
		value.Ports++
		served[address] = value
	}
	return served, nil
}

// takesFragments reports whether ports play no part in the rows of a VIP's packets.
func takesFragments(s lb.Steering, vip netip.Addr) bool {
	return slices.ContainsFunc(s.Fragments, func(a netip.Addr) bool { return a.Unmap() == vip.Unmap() })
}

// rowHash is the hash that chooses a flow's row; the slot goes by flowHash.
func rowHash(s lb.Steering, t lb.Tuple) uint64 {
	if takesFragments(s, t.Dst.Addr()) {
		t.Src, t.Dst = netip.AddrPortFrom(t.Src.Addr(), 0), netip.AddrPortFrom(t.Dst.Addr(), 0)
	}
	return flowHash(s.Seed, t)
}

// freePlace returns a place in one of the address's two buckets that nobody
// has, in the emptier one.
func freePlace(a bpf.Address, taken ...map[uint32]bpf.VIPEntry) (place uint32, ok bool) {
	most := 0
	first, second := bpf.VIPBucketsOf(a)
	for _, bucket := range []uint32{first, second} {
		free := 0
		for i := uint32(bpf.VIPBucket); i > 0; i-- {
			at := bucket*bpf.VIPBucket + i - 1
			if slices.ContainsFunc(taken, func(m map[uint32]bpf.VIPEntry) bool { _, is := m[at]; return is }) {
				continue
			}
			if free++; free > most {
				place, most = at, free
			}
		}
	}
	return place, most > 0
}

// freeNumbers returns a function that yields the numbers from first below end
// that are not in use, each once.
func freeNumbers[V any](used map[uint32]V, end, first uint32) func() (uint32, bool) {
	next := first
	return func() (uint32, bool) {
		for ; next < end; next++ {
			if _, ok := used[next]; !ok {
				next++
				return next - 1, true
			}
		}
		return 0, false
	}
}
