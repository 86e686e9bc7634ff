package l4

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// Explain says what happens to the packets of a flow under the last Apply.
func (d *Datapath) Explain(t lb.Tuple) Explanation {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := Explanation{Tuple: t, Row: -1, Slot: -1}
	hash := flowHash(d.steering.Seed, t)
	if e.explainService(d, hash) {
		return e
	}
	e.explainVIP(d.steering.VIPs)
	if e.VIP != nil {
		e.Row = rowOf(rowHash(d.steering, t))
		if takesFragments(d.steering, t.Dst.Addr()) {
			e.say("it takes fragments: ports play no part in its rows, all flows of %s share one", t.Src.Addr())
		}
		e.explainChain(d)
	}
	if e.VIP == nil || len(e.Chain) == 0 || e.Chain[0].Self {
		e.explainSlot(d, hash)
	}
	return e
}

func (e *Explanation) say(format string, a ...any) { e.Why = append(e.Why, fmt.Sprintf(format, a...)) }

func (e *Explanation) explainVIP(vips []lb.VIP) {
	dst := e.Tuple.Dst
	known := false
	for _, port := range []uint16{dst.Port(), 0} {
		for _, v := range vips {
			if v.Addr.Unmap() != dst.Addr().Unmap() {
				continue
			}
			known = true
			if e.VIP == nil && v.Port == port && v.Protocol == e.Tuple.Protocol {
				e.VIP = &v
			}
		}
	}
	switch {
	case e.VIP != nil:
		e.say("%s is a VIP", *e.VIP)
	case known:
		e.say("%s is a VIP's address, but nothing is steered at port %d/%s: the kernel answers", dst.Addr(), dst.Port(), e.Tuple.Protocol)
	default:
		e.say("%s is no VIP: packets pass untouched", dst.Addr())
	}
}

func (e *Explanation) explainChain(d *Datapath) {
	if len(d.steering.Epochs) == 0 {
		e.Chain = []Hop{{Name: d.steering.Self, Address: d.options.Address, Self: true}}
		e.say("there is no epoch: every row is this node's")
		return
	}
	chain := d.derived.chains[e.Row]
	if m, away := d.planner.standIn(d.steering, e.VIP, e.Row); away {
		e.say("its listener drains here: a new connection goes to %s", m.Name)
	}
	for i, owner := range chain {
		if owner < 0 {
			continue
		}
		m := d.derived.members[owner]
		hop := Hop{Name: m.Name, Address: m.Address, Self: m.Name == d.steering.Self}
		e.Chain = append(e.Chain, hop)
		if i == 0 {
			e.say("row %d belongs to %s", e.Row, hop.Name)
		} else {
			e.say("before, row %d belonged to %s: it is asked for connections that later owners do not know", e.Row, hop.Name)
		}
	}
	if chain[0] < 0 {
		e.say("row %d takes no new connections: no member has a weight", e.Row)
	}
}

// explainSlot follows bpf/socket.c.
func (e *Explanation) explainSlot(d *Datapath, hash uint64) {
	bind, value, ok := d.bindOf(e.Tuple.Dst)
	if !ok {
		e.say("no listener of ours is bound to %s on this node: the kernel decides", e.Tuple.Dst)
		return
	}
	e.Bind = &bind
	index := uint32(value.Slot[slotOf(hash, int(value.Live))])
	for _, b := range d.steering.Binds {
		if bindKey(b.Bind) != bindKey(bind) {
			continue
		}
		e.Slot = slices.IndexFunc(b.Sockets, func(fd int) bool {
			cookie, err := d.planner.cookie(fd)
			return fd >= 0 && err == nil && cookie == d.have.slots[index]
		})
	}
	if !d.report.Sockets.Steered {
		e.Slot = -1
		e.say("sk_lookup is off: the kernel chooses the socket by a hash of its own")
		return
	}
	e.say("a new connection to %s goes to slot %d, one of %d that are live", bind, e.Slot, value.Live)
}

func (d *Datapath) bindOf(dst netip.AddrPort) (netip.AddrPort, bpf.Bind, bool) {
	addresses := []netip.Addr{dst.Addr()}
	if dst.Addr().Unmap().Is4() {
		addresses = append(addresses, netip.IPv4Unspecified())
	}
	for _, a := range append(addresses, netip.IPv6Unspecified()) {
		bind := netip.AddrPortFrom(a, dst.Port())
		if value, ok := d.have.binds[bindKey(bind)]; ok && value.Live > 0 {
			return bind, value, true
		}
	}
	return netip.AddrPort{}, bpf.Bind{}, false
}
