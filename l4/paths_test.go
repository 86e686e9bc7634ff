package l4

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// complaint is what a router of the fabric answers to a packet of ours that was
// too big for it: ICMP with an MTU that quotes the packet's first bytes.
func complaint(sent []byte, mtu int, quoted int) []byte {
	packet := sent[14:]
	packet = packet[:min(quoted, len(packet))]
	if sent[14]>>4 == 6 {
		from := netip.AddrFrom16([16]byte(sent[22:38]))
		return frame(eth(v6), ip6("fd00::99", from.String(), layers.IPProtocolICMPv6),
			&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)},
			gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, uint32(mtu)), packet...)))
	}
	from := netip.AddrFrom4([4]byte(sent[26:30]))
	icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: uint16(mtu)}
	return frame(eth(v4), ip4("10.9.9.9", from.String(), layers.IPProtocolICMPv4), icmp, gopacket.Payload(packet))
}

// Two nodes of a fabric of IPv6.
var (
	six1 = lb.Member{Name: "edge-1", Boot: lb.BootID{1}, Address: netip.MustParseAddr("fd00::1"), Weight: 4}
	six2 = lb.Member{Name: "edge-2", Boot: lb.BootID{2}, Address: netip.MustParseAddr("fd00::2"), Weight: 4}
)

func TestICMPAboutATunnelOfOursLowersThePathsMTU(t *testing.T) {
	long := func(n int) []byte {
		return frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(40000, 80, "A"), data(n-40))
	}
	for _, c := range []struct {
		sentence string
		steering lb.Steering
		self     lb.Member
		overhead int // of the longest list of hops
		quoted   int // by routers, as long as an ICMP message may be
		least    int
	}{
		{"IPv4", steering(edge1, only(edge2)), edge1, 48, 548, 576 + 48},
		{"IPv6", steering(six1, only(six2)), six1, 92, 1232, 1280},
	} {
		r := newRig(t, c.self).apply(c.steering)
		index := func() uint32 {
			for i := range r.have.peers {
				if i != bpf.Self {
					return i
				}
			}
			return 0
		}()
		_, reason, sent := r.run(long(1500))
		if reason != lb.XDPSent {
			t.Fatalf("%s: %s", c.sentence, reason)
		}
		if verdict, reason, _ := r.run(complaint(sent, 1450, c.quoted)); verdict != drop || reason != lb.XDPLearned {
			t.Errorf("%s: a router with an MTU of 1450: verdict %d for %s", c.sentence, verdict, reason)
		}
		// It holds at once, and the client is told.
		verdict, reason, out := r.run(long(1500))
		if verdict != redirect || reason != lb.XDPTold {
			t.Fatalf("%s: the client's next packet: verdict %d for %s", c.sentence, verdict, reason)
		}
		checkTold(t, c.sentence, long(1500), out, 14, 1450-c.overhead)
		if _, reason, _ := r.run(long(1450 - c.overhead)); reason != lb.XDPSent {
			t.Errorf("%s: what the client was told to send: %s", c.sentence, reason)
		}
		// The next look at the routes keeps it, for ten minutes.
		now := monotonic()
		for age, mtu := range map[time.Duration]uint16{time.Minute: 1450, 9 * time.Minute: 1450, 11 * time.Minute: 1600} {
			p := bpf.Peer{Address: r.have.peers[index], MTU: 1600}
			path := r.path(index)
			said := r.narrow(index, &p, now+uint64(age))
			if p.MTU != mtu || (said != "") != (mtu == 1450) {
				t.Errorf("%s: after %s the MTU is %d, %q", c.sentence, age, p.MTU, said)
			}
			if age > pathHolds {
				for i, w := range asWords(&path) { // as if it had not been looked at
					r.paths.store(int(index)*pathWords+i, w)
				}
			}
		}
		// A router that says less than anybody can use is believed that far.
		_, _, sent = r.run(long(1450 - c.overhead))
		if _, reason, _ := r.run(complaint(sent, 68, c.quoted)); reason != lb.XDPLearned {
			t.Errorf("%s: an MTU of 68: %s", c.sentence, reason)
		}
		if got := r.path(index).MTU; int(got) != c.least {
			t.Errorf("%s: an MTU of 68 became %d, want %d", c.sentence, got, c.least)
		}
		// The index of a peer that went says nothing of the next one's way.
		r.putPeer(write{tablePeers, index, bpf.AddressOf(edge4.Address)})
		if r.path(index) != (bpf.PathMTU{}) {
			t.Errorf("%s: the next peer of that number has %+v", c.sentence, r.path(index))
		}
	}
}

func TestICMPThatProvesNothingChangesNothing(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(edge2)))
	big := frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(40000, 80, "A"), data(1400))
	_, _, sent := r.run(big)
	with := func(f []byte, at int, b byte) []byte { return edit(bytes.Clone(f), at, b) }
	const quoted = 14 + 20 + 8 // where the quoted packet begins
	good := complaint(sent, 1300, 548)
	stranger := bytes.Clone(sent)
	copy(stranger[14+16:], edge4.Address.AsSlice())
	for _, c := range []struct {
		sentence string
		frame    []byte
		verdict  uint32
		reason   lb.Reason
	}{
		{"another tag", with(good, quoted+20+8+8, 0xff), drop, lb.XDPBadTag},
		{"a router that quotes eight bytes only, so no tag", complaint(sent, 1300, 28), pass, lb.XDPNotVIP},
		{"about a service's GUE, which has no tag", with(complaint(stranger, 1300, 548), quoted+20+8+8, 0xff), pass, lb.XDPNotVIP},
		{"about a packet to nobody we know", complaint(stranger, 1300, 548), drop, lb.XDPStranger},
		{"about a packet of somebody else", with(good, quoted+15, 77), pass, lb.XDPNotVIP},
		{"about another port", with(good, quoted+22, 77), pass, lb.XDPNotVIP},
		{"the packet would have fitted", complaint(sent, 1500, 548), pass, lb.XDPNotVIP},
		{"host unreachable", with(good, 14+20+1, 1), pass, lb.XDPNotVIP},
		{"a ping to the node", frame(eth(v4), ip4(client4, "10.0.0.1", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, data(56)), pass, lb.XDPNotVIP},
	} {
		if verdict, reason, out := r.run(c.frame); verdict != c.verdict || reason != c.reason || verdict == pass && !bytes.Equal(out, c.frame) {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
		}
	}
	if _, reason, _ := r.run(big); reason != lb.XDPSent {
		t.Errorf("the packet is sent no more: %s", reason)
	}
	deaf := steering(edge1, only(edge2))
	deaf.Tags = nil
	if _, reason, _ := r.apply(deaf).run(good); reason != lb.XDPBadTag {
		t.Errorf("without a tag of our own: %s", reason)
	}
}

// The way from a hop to the next is narrower than the way to the hop: who sent the
// tunnel there is told as by a router, and tells the client from then on.
func TestAHopWithANarrowWayTellsWhoSentTheTunnel(t *testing.T) {
	big := frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(40000, 80, "A"), data(1400))
	sets := [][]lb.Member{idleBut(edge2), idleBut(edge3)}
	ingress, hop := newRig(t, edge1).apply(steering(edge1, sets...)), newRig(t, edge2).apply(steering(edge2, sets...))
	hop.ways(func(p *bpf.Peer) {
		if p.Address.Addr() == edge3.Address {
			p.MTU = 1450
		}
	})
	_, _, sent := ingress.run(big)
	verdict, reason, told := hop.run(sent)
	if verdict != redirect || reason != lb.XDPTold {
		t.Fatalf("the hop: verdict %d for %s", verdict, reason)
	}
	checkTold(t, "the hop", sent, told, 14, 1450)
	if verdict, reason, _ := ingress.run(told); verdict != drop || reason != lb.XDPLearned {
		t.Errorf("the node that sent the tunnel: verdict %d for %s", verdict, reason)
	}
	verdict, reason, out := ingress.run(big)
	if verdict != redirect || reason != lb.XDPTold {
		t.Fatalf("the client's next packet: verdict %d for %s", verdict, reason)
	}
	checkTold(t, "the client", big, out, 14, 1450-48)
	icmp := frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)},
		gopacket.Payload(frame(ip4("192.0.2.10", client4, layers.IPProtocolTCP), tcp(80, 40000, "A"), data(1400))))
	ingress.ways(func(*bpf.Peer) {})
	_, _, sent = ingress.run(icmp)
	if verdict, reason, _ := hop.run(sent); verdict != drop || reason != lb.XDPTooBig {
		t.Errorf("nobody is told of what tells: verdict %d for %s", verdict, reason)
	}
}
