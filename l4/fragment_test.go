package l4

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// split cuts the IPv4 or IPv6 packet of a frame into fragments with so many
// bytes of payload each.
func split(f []byte, size int, id uint32) (parts [][]byte) {
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	if ip, ok := p.NetworkLayer().(*layers.IPv4); ok {
		for at := 0; at < len(ip.Payload); at += size {
			part := *ip
			part.Id, part.FragOffset = uint16(id), uint16(at/8)
			end := min(at+size, len(ip.Payload))
			if end < len(ip.Payload) {
				part.Flags = layers.IPv4MoreFragments
			}
			parts = append(parts, frame(eth(v4), &part, gopacket.Payload(ip.Payload[at:end])))
		}
		return parts
	}
	ip := p.NetworkLayer().(*layers.IPv6)
	for at := 0; at < len(ip.Payload); at += size {
		end, word := min(at+size, len(ip.Payload)), uint16(at)
		if end < len(ip.Payload) {
			word |= 1
		}
		header := []byte{byte(ip.NextHeader), 0, byte(word >> 8), byte(word), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
		part := *ip
		part.NextHeader = layers.IPProtocolIPv6Fragment
		parts = append(parts, frame(eth(v6), &part, gopacket.Payload(append(header, ip.Payload[at:end]...))))
	}
	return parts
}

func long4(vip lb.VIP, port int, flags string) []byte {
	return frame(eth(v4), ip4(client4, vip.Addr.String(), layers.IPProtocolTCP), tcp(port, int(vip.Port), flags), data(100))
}

func long6(vip lb.VIP, port int, flags string) []byte {
	return frame(eth(v6), ip6(client6, vip.Addr.String(), layers.IPProtocolTCP), tcp(port, int(vip.Port), flags), data(100))
}

// taking has all VIPs take fragments.
func taking(s lb.Steering) lb.Steering {
	for _, v := range s.VIPs {
		s.Fragments = append(s.Fragments, v.Addr)
	}
	return s
}

var places = [...]string{"the first", "one in the middle", "the last"}

func TestFragmentsAreDroppedUnlessTheVIPTakesThem(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(edge2)))
	datagram := frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(9, 53), data(112))
	for sentence, f := range map[string][]byte{"IPv4": long4(vip4, 40000, "A"), "IPv6": long6(vip6, 40000, "A"), "a datagram": datagram} {
		for i, part := range split(f, 40, 7)[:3] {
			if verdict, reason, _ := r.run(part); verdict != drop || reason != lb.XDPFragment {
				t.Errorf("%s, %s: verdict %d for %s", sentence, places[i], verdict, reason)
			}
		}
	}
}

func TestAllFragmentsOfAPacketComeToOneOwner(t *testing.T) {
	r := newRig(t, edge1).apply(taking(steering(edge1, only(edge1, edge2, edge3))))
	owned := map[netip.Addr]int{}
	for port := range 60 {
		for _, c := range []struct {
			sentence string
			whole    []byte
			tuple    lb.Tuple
		}{
			{"IPv4", long4(vip4, 2000+port, "A"), tuple(lb.TCP, client4, 0, "192.0.2.10", 0)},
			{"IPv6", long6(vip6, 2000+port, "A"), tuple(lb.TCP, client6, 0, "2001:db8::10", 0)},
			{"a datagram", frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(2000+port, 53), data(112)), tuple(lb.UDP, client4, 0, "192.0.2.10", 0)},
		} {
			to := func(f []byte) netip.Addr {
				verdict, reason, out := r.run(f)
				switch {
				case verdict == pass && reason == lb.XDPLocal:
					return edge1.Address
				case verdict == redirect && reason == lb.XDPSent:
					return readOuter(t, out).to
				}
				t.Errorf("%s: verdict %d for %s", c.sentence, verdict, reason)
				return netip.Addr{}
			}
			// The row is that of the addresses alone, in Go as in C.
			row := rowOf(flowHash(seed, c.tuple))
			want := r.planner.last.members[r.planner.last.chains[row][0]].Address
			if got := to(c.whole); got != want {
				t.Errorf("%s from port %d goes to %s, its addresses' row is %s's", c.sentence, 2000+port, got, want)
			}
			for i, part := range split(c.whole, 40, uint32(port))[:3] {
				if got := to(part); got != want {
					t.Errorf("%s from port %d, fragment %d goes to %s, not to %s", c.sentence, 2000+port, i, got, want)
				}
			}
			owned[want]++
		}
	}
	// Another address of the same kind goes by its ports still.
	s := steering(edge1, only(edge1, edge2, edge3))
	s.Fragments = []netip.Addr{vip6.Addr}
	r.apply(s)
	seen := map[lb.Reason]bool{}
	for port := range 60 {
		_, reason, _ := r.run(long4(vip4, 2000+port, "A"))
		seen[reason] = true
	}
	if !seen[lb.XDPLocal] || !seen[lb.XDPSent] {
		t.Errorf("without the policy 60 ports have one owner: %v", seen)
	}
}

func TestFragmentsFollowTheFirstWhereSeveralOwnersAreAsked(t *testing.T) {
	s := taking(steering(edge1, idleBut(edge1), idleBut(edge2)))
	r := newRig(t, edge1).apply(s).settled()
	known := established(t)
	p := gopacket.NewPacket(known, layers.LayerTypeEthernet, gopacket.Default)
	segment := *p.TransportLayer().(*layers.TCP)
	known = frame(eth(v4), ip4("127.0.0.1", "127.0.0.1", layers.IPProtocolTCP), &segment, data(100))
	unknown := long4(vip4, 40000, "A")
	for _, c := range []struct {
		sentence string
		frame    []byte
		order    []int
		want     []lb.Reason
	}{
		{"the connection is here", known, []int{0, 1, 2}, []lb.Reason{lb.XDPFound, lb.XDPFound, lb.XDPFound}},
		{"it is not, the owner before is asked", unknown, []int{0, 1, 2}, []lb.Reason{lb.XDPMissed, lb.XDPMissed, lb.XDPMissed}},
		{"the last fragment comes before the first", known, []int{2, 0, 1}, []lb.Reason{lb.XDPMissed, lb.XDPFound, lb.XDPFound}},
	} {
		parts := split(c.frame, 40, uint32(len(c.sentence)))
		for i, n := range c.order {
			if _, reason, _ := r.run(parts[n]); reason != c.want[i] {
				t.Errorf("%s, %s: %s, want %s", c.sentence, places[n], reason, c.want[i])
			}
		}
	}
	// The same at a hop, from a peer.
	at := newRig(t, edge2).apply(taking(steering(edge2, idleBut(edge1))))
	for i, part := range split(unknown, 40, 99)[:3] {
		verdict, reason, out := at.run(at.agreeing(tunnelled(part, 0x20, edge3)))
		if verdict != redirect || reason != lb.XDPMissed || readOuter(t, out).to != edge3.Address {
			t.Errorf("at a hop, %s: verdict %d for %s", places[i], verdict, reason)
		}
		if verdict, reason, out := at.run(at.agreeing(tunnelled(part, 0x10))); verdict != pass || reason != lb.XDPReceived || string(out[14:]) != string(part[14:]) {
			t.Errorf("at the one owner, %s: verdict %d for %s", places[i], verdict, reason)
		}
	}
}

func TestFragmentsThatNobodyNeedsAreDropped(t *testing.T) {
	r := newRig(t, edge1).apply(taking(steering(edge1, only(edge2))))
	syn, second := split(long4(vip4, 40000, "S"), 40, 7)[0], split(long4(vip4, 40000, "A"), 8, 7)
	ping := frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, data(112))
	for _, c := range []struct {
		sentence string
		frame    []byte
		verdict  uint32
		reason   lb.Reason
	}{
		{"a SYN in fragments", syn, drop, lb.XDPFragment},
		{"a first fragment without the whole TCP header", second[0], drop, lb.XDPShort},
		{"a fragment that replaces the flags", second[1], drop, lb.XDPFragment},
		{"flags that no segment carries", split(long4(vip4, 40000, "SF"), 40, 7)[0], drop, lb.XDPBadFlags},
		{"a long ping is answered where it arrives", split(ping, 40, 7)[0], pass, lb.XDPICMP},
		{"and the rest of it", split(ping, 40, 7)[1], pass, lb.XDPICMP},
		{"an IPv6 fragment with half a header", cut(split(long6(vip6, 1, "A"), 40, 7)[0], 14+40+7), drop, lb.XDPShort},
	} {
		if verdict, reason, _ := r.run(c.frame); verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
		}
	}
}

func TestFragmentsToAServiceGoToOneBackend(t *testing.T) {
	for _, c := range []struct {
		sentence string
		vip      lb.VIP
		whole    func(port int) []byte
	}{
		{"TCP", web4, func(port int) []byte { return long4(web4, port, "A") }},
		{"TCP over IPv6", web6, func(port int) []byte { return long6(web6, port, "A") }},
		{"UDP", log4, func(port int) []byte {
			return frame(eth(v4), ip4(client4, log4.Addr.String(), layers.IPProtocolUDP), udp(port, int(log4.Port)), data(112))
		}},
	} {
		s := steering(edge1, only(edge2))
		s.VIPs = nil
		s.Services = []lb.SteeredService{service(c.vip, "ipip", b1, b2, b3)}
		s.Fragments = []netip.Addr{c.vip.Addr}
		r := newRig(t, edge1).apply(s).reachAll(func(*bpf.Backend) {})
		to := map[string]bool{}
		for port := range 20 {
			for _, f := range append(split(c.whole(3000+port), 40, uint32(port)), c.whole(3000+port)) {
				verdict, reason, out := r.run(f)
				if verdict != redirect || reason != lb.XDPServed {
					t.Fatalf("%s: verdict %d for %s", c.sentence, verdict, reason)
				}
				to[string(out[30:34])] = true
			}
		}
		if len(to) != 1 {
			t.Errorf("%s: fragments of one client's packets went to %d backends", c.sentence, len(to))
		}
	}
}

func TestExplainSaysThatPortsPlayNoPart(t *testing.T) {
	r := newRig(t, edge1)
	s := taking(steering(edge1, only(edge1, edge2, edge3)))
	r.apply(s)
	d := &Datapath{steering: s, derived: r.planner.last, have: r.have, planner: r.planner}
	rows := map[int]bool{}
	for port := range uint16(20) {
		e := d.Explain(tuple(lb.TCP, client4, 1000+port, "192.0.2.10", 80))
		rows[e.Row] = true
		if !strings.Contains(strings.Join(e.Why, "\n"), "takes fragments") {
			t.Errorf("%v", e.Why)
		}
	}
	if len(rows) != 1 {
		t.Errorf("%d rows", len(rows))
	}
}
