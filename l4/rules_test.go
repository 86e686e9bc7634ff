package l4

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// words edits the node's words that user space keeps beside the rows.
func (r *rig) words(edit func(n *bpf.Node, now uint64)) *rig {
	n := r.have.node
	edit(&n, monotonic())
	r.storeNode(n)
	r.have.node = n
	return r
}

func (r *rig) unsettledNow() *rig {
	return r.words(func(n *bpf.Node, now uint64) { n.UnsettledUntil = now + uint64(time.Minute) })
}

func (r *rig) settled() *rig {
	return r.words(func(n *bpf.Node, _ uint64) { n.UnsettledUntil, n.YoungUntil = 0, 0 })
}

func TestAYoungRowAsksTheOwnerBeforeAboutSYNs(t *testing.T) {
	set := func(m lb.Member) []lb.Member { return only(idleBut(m)...) }
	one, two, three := set(edge1), set(edge2), set(edge3)
	r := newRig(t, edge1)
	young := func(n *bpf.Node, now uint64) { n.YoungUntil = now + uint64(time.Minute) }
	over := func(n *bpf.Node, now uint64) { n.YoungUntil = now - uint64(time.Second) }
	for _, c := range []struct {
		sentence string
		epochs   [][]lb.Member
		age      func(*bpf.Node, uint64)
		down     bool
		verdict  uint32
		reason   lb.Reason
		to       lb.Member
		flags    byte
		extra    []netip.Addr
	}{
		{"ours now, another's before: that one is asked, then we are", [][]lb.Member{one, two}, young, false, redirect, lb.XDPSent, edge2, 1, []netip.Addr{edge1.Address}},
		{"ours before: not half-open here, on to the new owner", [][]lb.Member{two, one}, young, false, redirect, lb.XDPMissed, edge2, 0, nil},
		{"neither is ours", [][]lb.Member{three, two}, young, false, redirect, lb.XDPSent, edge2, 1, []netip.Addr{edge3.Address}},
		{"who is down is not asked", [][]lb.Member{one, two}, young, true, pass, lb.XDPLocal, lb.Member{}, 0, nil},
		{"the row is no longer young", [][]lb.Member{one, two}, over, false, pass, lb.XDPLocal, lb.Member{}, 0, nil},
		{"there is nobody before", [][]lb.Member{one}, young, false, pass, lb.XDPLocal, lb.Member{}, 0, nil},
	} {
		r.apply(steering(edge1, c.epochs...)).words(c.age)
		if c.down {
			r.ways(func(p *bpf.Peer) { p.Flags |= bpf.PeerDown })
		}
		verdict, reason, out := r.run(segment("S"))
		if verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
			continue
		}
		if verdict != redirect {
			continue
		}
		if o := readOuter(t, out); o.to != c.to.Address || o.flags != c.flags || len(o.extra) != len(c.extra) || len(o.extra) > 0 && o.extra[0] != c.extra[0] {
			t.Errorf("%s: sent to %s, flags %#x, then %v", c.sentence, o.to, o.flags, o.extra)
		}
	}
}

func TestASYNThatAsksIsTakenByTheLastHopOnly(t *testing.T) {
	r := newRig(t, edge2).apply(steering(edge2, idleBut(edge1)))
	asks := func(place byte, hops ...lb.Member) []byte {
		return edit(r.agreeing(tunnelled(segment("S"), place, hops...)), 42+4, 0x11)
	}
	if verdict, reason, out := r.run(asks(0x20, edge3)); verdict != redirect || reason != lb.XDPMissed {
		t.Errorf("nothing half-open here: verdict %d for %s", verdict, reason)
	} else if o := readOuter(t, out); o.to != edge3.Address || o.flags != 1 {
		t.Errorf("nothing half-open here: sent to %s, flags %d", o.to, o.flags)
	}
	if verdict, reason, _ := r.run(asks(0x21, edge2)); verdict != pass || reason != lb.XDPReceived {
		t.Errorf("the last hop: verdict %d for %s", verdict, reason)
	}
}

func TestMissesAreHeldWhileUnsettled(t *testing.T) {
	known, unknown := established(t), segment("A")
	set := func(m lb.Member) []lb.Member { return only(idleBut(m)...) }
	r := newRig(t, edge2)
	for _, c := range []struct {
		sentence string
		epochs   [][]lb.Member
		frame    []byte
		verdict  uint32
		reason   lb.Reason
		settled  lb.Reason // what it is when nothing is unsettled
	}{
		{"our row, no socket", [][]lb.Member{set(edge2)}, unknown, drop, lb.XDPHeld, lb.XDPLocal},
		{"our row, an RST", [][]lb.Member{set(edge2)}, segment("R"), drop, lb.XDPHeld, lb.XDPLocal},
		{"our row, and the socket is here", [][]lb.Member{set(edge2)}, known, pass, lb.XDPFound, lb.XDPLocal},
		{"our row, a SYN", [][]lb.Member{set(edge2)}, segment("S"), pass, lb.XDPLocal, lb.XDPLocal},
		{"from a peer as the one owner, no socket", [][]lb.Member{set(edge2)}, tunnelled(unknown, 0x10), drop, lb.XDPHeld, lb.XDPReceived},
		{"from a peer as the one owner, and the socket is here", [][]lb.Member{set(edge2)}, tunnelled(known, 0x10), pass, lb.XDPReceived, lb.XDPReceived},
		{"from a peer as the last, no socket", [][]lb.Member{set(edge2)}, tunnelled(unknown, 0x21, edge2), drop, lb.XDPHeld, lb.XDPMissLastHop},
		{"from a peer, a SYN", [][]lb.Member{set(edge2)}, tunnelled(segment("S"), 0x10), pass, lb.XDPReceived, lb.XDPReceived},
		{"an earlier owner is asked all the same", [][]lb.Member{set(edge2), set(edge3)}, unknown, redirect, lb.XDPMissed, lb.XDPMissed},
		{"a hop before the last sends on all the same", [][]lb.Member{set(edge2)}, tunnelled(unknown, 0x20, edge3), redirect, lb.XDPMissed, lb.XDPMissed},
	} {
		r.apply(steering(edge2, c.epochs...)).unsettledNow()
		f := bytes.Clone(c.frame)
		if bytes.Equal(f[30:34], edge2.Address.AsSlice()) {
			f = r.agreeing(f)
		}
		if verdict, reason, _ := r.run(bytes.Clone(f)); verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
		}
		r.words(func(n *bpf.Node, now uint64) { n.UnsettledUntil = now - uint64(time.Second) }) // nobody took it away
		if _, reason, _ := r.run(bytes.Clone(f)); reason != c.settled {
			t.Errorf("%s, settled: %s, want %s", c.sentence, reason, c.settled)
		}
		r.settled()
		if _, reason, _ := r.run(bytes.Clone(f)); reason != c.settled {
			t.Errorf("%s, settled: %s, want %s", c.sentence, reason, c.settled)
		}
	}
}

func TestAnotherViewHoldsMissesForAMomentOnly(t *testing.T) {
	r := newRig(t, edge2).apply(steering(edge2, idleBut(edge1)))
	f := tunnelled(segment("A"), 0x10) // its view is 0
	if verdict, reason, _ := r.run(f); verdict != drop || reason != lb.XDPHeld {
		t.Errorf("the first packet of another view: verdict %d for %s", verdict, reason)
	}
	doubt := func() (d bpf.Doubt) {
		if err := r.Doubt.Lookup(uint32(0), &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := doubt()
	if d.View != r.have.node.View || d.Since == 0 {
		t.Errorf("noted as %+v", d)
	}
	d.Since -= uint64(3 * time.Second)
	if err := r.Doubt.Put(uint32(0), d); err != nil {
		t.Fatal(err)
	}
	if verdict, reason, _ := r.run(f); verdict != pass || reason != lb.XDPReceived {
		t.Errorf("3 s later, unconfirmed: verdict %d for %s", verdict, reason)
	}
	r.apply(steering(edge2, idleBut(edge1), idleBut(edge2)))
	if verdict, reason, _ := r.run(f); verdict != drop || reason != lb.XDPHeld {
		t.Errorf("our own view changed meanwhile: verdict %d for %s", verdict, reason)
	}
	d = doubt()
	d.Since, d.Last = d.Since-uint64(30*time.Second), d.Last-uint64(11*time.Second)
	if err := r.Doubt.Put(uint32(0), d); err != nil {
		t.Fatal(err)
	}
	if verdict, reason, _ := r.run(f); verdict != drop || reason != lb.XDPHeld {
		t.Errorf("after a while without doubt: verdict %d for %s", verdict, reason)
	}
}

func TestAScanOfACKsIsSentOnToALimit(t *testing.T) {
	set := func(m lb.Member) []lb.Member { return only(idleBut(m)...) }
	r := newRig(t, edge2)
	for _, c := range []struct {
		sentence string
		epochs   [][]lb.Member
		frame    func() []byte
	}{
		{"ours now, another's before", [][]lb.Member{set(edge2), set(edge3)}, func() []byte { return segment("A") }},
		{"from a peer", [][]lb.Member{set(edge2)}, func() []byte { return r.agreeing(tunnelled(segment("A"), 0x20, edge3)) }},
	} {
		r.apply(steering(edge2, c.epochs...)).words(func(n *bpf.Node, _ uint64) { n.Misses, n.UnsettledUntil = 3, 0 })
		if err := r.Allowance.Put(uint32(0), make([]bpf.Allowance, ebpf.MustPossibleCPU())); err != nil {
			t.Fatal(err)
		}
		sent, ended := 0, 0
		for range 40 { // over some ticks perhaps
			switch verdict, reason, _ := r.run(c.frame()); {
			case verdict == redirect && reason == lb.XDPMissed:
				sent++
			case verdict == pass && reason == lb.XDPMissLimit:
				ended++
			default:
				t.Errorf("%s: verdict %d for %s", c.sentence, verdict, reason)
			}
		}
		if sent == 0 || ended == 0 {
			t.Errorf("%s: %d packets were sent on, %d ended here", c.sentence, sent, ended)
		}
		r.words(func(n *bpf.Node, now uint64) { n.UnsettledUntil = now + uint64(time.Minute) })
		r.words(func(n *bpf.Node, _ uint64) { n.Misses = 0 })
		if verdict, _, _ := r.run(c.frame()); verdict != redirect {
			t.Errorf("%s, without a limit: verdict %d", c.sentence, verdict)
		}
	}
}

func TestAVIPThatSomeMemberLacksIsServedWhereItArrives(t *testing.T) {
	known, unknown := established(t), segment("A")
	set := func(m lb.Member) []lb.Member { return only(idleBut(m)...) }
	r := newRig(t, edge1)
	here := func(s lb.Steering) lb.Steering { s.Here = s.VIPs; return s }
	before := func(s lb.Steering) lb.Steering { s.WasHere = s.VIPs; return s }
	for _, c := range []struct {
		sentence string
		steering lb.Steering
		frame    []byte
		verdict  uint32
		reason   lb.Reason
		to       lb.Member
		extra    []netip.Addr
	}{
		{"a SYN of another's row", here(steering(edge1, set(edge2))), segment("S"), pass, lb.XDPHere, lb.Member{}, nil},
		{"a datagram of another's row", here(steering(edge1, set(edge2))), frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(9, 53), data(30)), pass, lb.XDPHere, lb.Member{}, nil},
		{"a segment whose socket is here", here(steering(edge1, set(edge2))), known, pass, lb.XDPFound, lb.Member{}, nil},
		{"a segment of an older connection goes to the row's owner", here(steering(edge1, set(edge2))), unknown, redirect, lb.XDPMissed, edge2, nil},
		{"and to the owner before", here(steering(edge1, set(edge2), set(edge3))), unknown, redirect, lb.XDPMissed, edge2, nil},
		{"since all members have it a SYN goes to the owner", before(steering(edge1, set(edge2))), segment("S"), redirect, lb.XDPSent, edge2, nil},
		{"what began here is still found here", before(steering(edge1, set(edge2))), known, pass, lb.XDPFound, lb.Member{}, nil},
	} {
		verdict, reason, out := r.apply(c.steering).run(c.frame)
		if verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
			continue
		}
		if verdict == redirect {
			if o := readOuter(t, out); o.to != c.to.Address {
				t.Errorf("%s: sent to %s", c.sentence, o.to)
			}
		}
	}
}

func TestAVIPThatDrainsHereIsTakenByTheRowsStandIn(t *testing.T) {
	known, unknown := established(t), segment("A")
	most := func(m lb.Member) (set []lb.Member) { // of the rows are one's, that of the segment, too
		for _, n := range only(edge1, edge2, edge3) {
			if n.Weight = 1; n.Name == m.Name {
				n.Weight = 100_000
			}
			set = append(set, n)
		}
		return set
	}
	r := newRig(t, edge1)
	away := func(s lb.Steering, to ...string) lb.Steering { s.Away, s.AwayTo = s.VIPs, to; return s }
	before := func(s lb.Steering) lb.Steering { s.WasAway, s.AwayTo = s.VIPs, []string{edge2.Name}; return s }
	for _, c := range []struct {
		sentence string
		steering lb.Steering
		frame    []byte
		verdict  uint32
		reason   lb.Reason
		to       []lb.Member
	}{
		{"a SYN of our row", away(steering(edge1, most(edge1)), edge2.Name), segment("S"), redirect, lb.XDPSent, []lb.Member{edge2}},
		{"a SYN of a row whose owner lacks it, too", away(steering(edge1, most(edge3)), edge2.Name), segment("S"), redirect, lb.XDPSent, []lb.Member{edge2}},
		{"a SYN of a row whose owner serves it", away(steering(edge1, most(edge3)), edge2.Name, edge3.Name), segment("S"), redirect, lb.XDPSent, []lb.Member{edge3}},
		{"a SYN, and nobody serves it", away(steering(edge1, most(edge1))), segment("S"), pass, lb.XDPLocal, nil},
		{"a segment whose socket is here", away(steering(edge1, most(edge1)), edge2.Name), known, pass, lb.XDPFound, nil},
		{"a segment of a connection that is away", away(steering(edge1, most(edge1)), edge2.Name), unknown, redirect, lb.XDPMissed, []lb.Member{edge2}},
		{"or at the row's owner", away(steering(edge1, most(edge3)), edge2.Name), unknown, redirect, lb.XDPMissed, []lb.Member{edge2, edge3}},
		{"or at the owner before", away(steering(edge1, most(edge1), most(edge3)), edge2.Name), unknown, redirect, lb.XDPMissed, []lb.Member{edge2, edge3}},
		{"since it is back a SYN of our row", before(steering(edge1, most(edge1))), segment("S"), pass, lb.XDPLocal, nil},
		{"what began away is still found there", before(steering(edge1, most(edge1))), unknown, redirect, lb.XDPMissed, []lb.Member{edge2}},
		{"and what began here, here", before(steering(edge1, most(edge1))), known, pass, lb.XDPFound, nil},
	} {
		verdict, reason, out := r.apply(c.steering).run(bytes.Clone(c.frame))
		if verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
			continue
		}
		if verdict != redirect {
			continue
		}
		o := readOuter(t, out)
		sent := append([]netip.Addr{o.to}, o.extra...)
		var want []netip.Addr
		for _, m := range c.to {
			want = append(want, m.Address)
		}
		if !slices.Equal(sent, want) {
			t.Errorf("%s: sent to %v, want %v", c.sentence, sent, want)
		}
	}
}

// question builds what a peer's prober sends to edge-2.
func question(from netip.Addr, n uint32) []byte {
	p := &prober{tags: []uint32{0xfeedface}, view: 77}
	return frame(eth(v4), &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: edge2.Address.AsSlice()},
		udp(45678, bpf.TunnelPort), gopacket.Payload(p.question(n)))
}

func TestAPeersQuestionIsAnsweredInXDP(t *testing.T) {
	r := newRig(t, edge2).apply(steering(edge2, only(edge1, edge2)))
	answer := func() *life {
		verdict, reason, out := r.run(question(edge1.Address, 7))
		if verdict != redirect || reason != lb.XDPPulse {
			t.Fatalf("verdict %d for %s", verdict, reason)
		}
		p := gopacket.NewPacket(out, layers.LayerTypeEthernet, gopacket.Default)
		ip, u := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4), p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		if ip == nil || u == nil || headerSum(out[14:34]) != 0 || !ip.SrcIP.Equal(edge2.Address.AsSlice()) || !ip.DstIP.Equal(edge1.Address.AsSlice()) ||
			u.SrcPort != bpf.TunnelPort || u.DstPort != 45678 || u.Checksum != 0 {
			t.Fatalf("answered by % x", out)
		}
		if q := question(edge1.Address, 7); !bytes.Equal(out[:6], q[6:12]) || !bytes.Equal(out[6:12], q[:6]) {
			t.Errorf("the frame's addresses are % x", out[:12])
		}
		p1 := &prober{tags: []uint32{0xfeedface}, lives: map[netip.Addr]*life{edge2.Address: {asked: 7, missed: 1}}}
		p1.answered(edge2.Address, out[42:62])
		return p1.lives[edge2.Address]
	}
	if l := answer(); !l.heard || l.missed != 0 || l.view != binary.BigEndian.Uint16(r.have.node.View[:]) || l.workers >= 0 {
		t.Errorf("no worker has a pulse: %+v", l)
	}
	if err := r.Pulse.Put(uint32(0), monotonic()-uint64(3*time.Second)); err != nil {
		t.Fatal(err)
	}
	if l := answer(); l.workers < 2*time.Second || l.workers > 5*time.Second {
		t.Errorf("the workers' loops turned 3 s ago, the answer says %s", l.workers)
	}
	for sentence, f := range map[string][]byte{
		"an answer": edit(question(edge1.Address, 7), 42+1, 2), "another kind": edit(question(edge1.Address, 7), 42+1, 9),
		"another length": edit(question(edge1.Address, 7), 42, 0x25), "half of it": cut(question(edge1.Address, 7), 42+17),
	} {
		if verdict, reason, _ := r.run(f); verdict != drop || reason != lb.XDPBadTunnel {
			t.Errorf("%s: verdict %d for %s", sentence, verdict, reason)
		}
	}
	if verdict, reason, _ := r.run(edit(question(edge1.Address, 7), 42+8, 0)); verdict != drop || reason != lb.XDPBadTag {
		t.Errorf("another tag: verdict %d for %s", verdict, reason)
	}
	if verdict, reason, _ := r.run(question(edge4.Address, 7)); verdict != drop || reason != lb.XDPStranger {
		t.Errorf("a stranger: verdict %d for %s", verdict, reason)
	}
}

func TestFramesThroughAVLANCarryItsTag(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, idleBut(edge2)))
	plain := func() []byte { _, _, out := r.run(segment("S")); return out }()
	r.ways(func(p *bpf.Peer) { p.VLAN = [2]byte{0x01, 0x23} })
	verdict, reason, out := r.run(segment("S"))
	want := append(append(bytes.Clone(plain[:12]), 0x81, 0, 0x01, 0x23), plain[12:]...)
	if verdict != redirect || reason != lb.XDPSent || !bytes.Equal(out, want) {
		t.Errorf("verdict %d for %s, out\n% x, want\n% x", verdict, reason, out, want)
	}
	// No daemon has looked for long, and the kernel has no way through the parent.
	r.ways(func(p *bpf.Peer) { p.VLAN, p.ValidUntil = [2]byte{0x01, 0x23}, 1 })
	if verdict, reason, out := r.run(segment("S")); verdict != redirect || reason != lb.XDPSent || !bytes.Equal(out, want) {
		t.Errorf("expired: verdict %d for %s, out\n% x, want\n% x", verdict, reason, out, want)
	}
	r.ways(func(p *bpf.Peer) { p.VLAN, p.ValidUntil = [2]byte{0x01, 0x23}, 0 }) // half written
	if verdict, reason, _ := r.run(segment("S")); verdict != pass || reason != lb.XDPUnresolved {
		t.Errorf("not known: verdict %d for %s", verdict, reason)
	}
}
