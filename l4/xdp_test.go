package l4

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

func cut(frame []byte, n int) []byte { return frame[:n] }

func edit(frame []byte, at int, b byte) []byte {
	frame[at] = b
	return frame
}

// fastOpen is a SYN with the option of TCP Fast Open and the first data.
func fastOpen() []byte {
	syn := tcp(40000, 80, "S")
	syn.Options = []layers.TCPOption{{OptionType: 34, OptionLength: 10, OptionData: []byte{1, 2, 3, 4, 5, 6, 7, 8}}}
	return frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), syn, data(100))
}

func TestWhatIsNotForUsPassesUntouched(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(edge2)))
	for _, c := range []struct {
		sentence string
		frame    []byte
		reason   lb.Reason
	}{
		{"ARP", frame(eth(layers.EthernetTypeARP), data(28)), lb.XDPNotIP},
		{"IPv4 to another address", frame(eth(v4), ip4(client4, "192.0.2.99", layers.IPProtocolTCP), tcp(1, 80, "S")), lb.XDPNotVIP},
		{"IPv6 to another address", frame(eth(v6), ip6(client6, "2001:db8::99", layers.IPProtocolTCP), tcp(1, 80, "S")), lb.XDPNotVIP},
		{"a fragment to another address", frame(eth(v4), &layers.IPv4{Version: 4, TTL: 9, Flags: layers.IPv4MoreFragments, Protocol: 6, SrcIP: net.IP{1, 1, 1, 1}, DstIP: net.IP{2, 2, 2, 2}}, data(64)), lb.XDPNotVIP},
		{"an IPv4 header that is not whole", cut(segment("S"), 14+19), lb.XDPNotIP},
		{"an IPv6 header that is not whole", cut(segment6("S"), 14+39), lb.XDPNotIP},
		{"three VLAN tags", frame(eth(layers.EthernetTypeDot1Q), vlan(1, layers.EthernetTypeDot1Q), vlan(2, layers.EthernetTypeDot1Q), vlan(3, v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(1, 80, "S")), lb.XDPNotIP},
		{"TCP to a VIP's port that nothing serves", frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(1, 81, "S")), lb.XDPNoPort},
		{"UDP to a TCP port", frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(1, 80), data(4)), lb.XDPNoPort},
		{"SCTP to a VIP", frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolSCTP), data(40)), lb.XDPNoPort},
		{"ping to a VIP", frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, data(56)), lb.XDPICMP},
		{"ping to an IPv6 VIP", frame(eth(v6), ip6(client6, "2001:db8::10", layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}, data(56)), lb.XDPICMP},
		{"UDP to our address on another port", frame(eth(v4), ip4("10.0.0.2", "10.0.0.1", layers.IPProtocolUDP), udp(1, 6081), data(40)), lb.XDPNotVIP},
	} {
		verdict, reason, out := r.run(c.frame)
		if verdict != pass || reason != c.reason || !bytes.Equal(out, c.frame) {
			t.Errorf("%s: verdict %d for %s, want pass for %s, unchanged", c.sentence, verdict, reason, c.reason)
		}
	}
}

func TestMalformedPacketsToAVIPAreDropped(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(edge2)))
	tcp4 := func() []byte { return segment("S") }
	fragment := &layers.IPv4{Version: 4, TTL: 9, Protocol: 6, SrcIP: net.IP{1, 1, 1, 1}, DstIP: net.IP{192, 0, 2, 10}}
	first, later := *fragment, *fragment
	first.Flags, later.FragOffset = layers.IPv4MoreFragments, 100
	options := func(n int) []gopacket.SerializableLayer {
		l := []gopacket.SerializableLayer{eth(v6), ip6(client6, "2001:db8::10", layers.IPProtocolIPv6Destination)}
		var b []byte
		for i := range n {
			next := byte(layers.IPProtocolIPv6Destination)
			if i == n-1 {
				next = byte(layers.IPProtocolTCP)
			}
			b = append(b, next, 0, 1, 4, 0, 0, 0, 0)
		}
		return append(l, gopacket.Payload(b), tcp(1, 80, "S"))
	}
	for _, c := range []struct {
		sentence string
		frame    []byte
		reason   lb.Reason
	}{
		{"a TCP header that is not whole", cut(tcp4(), 14+20+19), lb.XDPShort},
		{"a UDP header that is not whole", cut(frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(1, 53)), 14+20+7), lb.XDPShort},
		{"an ICMP header that is not whole", cut(frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolICMPv4), data(8)), 14+20+7), lb.XDPShort},
		{"a frame that is shorter than its packet says", cut(tcp4(), 14+20+20+5), lb.XDPShort},
		{"version 5 in an IPv4 frame", edit(tcp4(), 14, 0x55), lb.XDPBadHeader},
		{"an IPv4 header of four words", edit(tcp4(), 14, 0x44), lb.XDPBadHeader},
		{"a packet shorter than its own header", edit(edit(tcp4(), 16, 0), 17, 19), lb.XDPBadHeader},
		{"version 4 in an IPv6 frame", edit(segment6("S"), 14, 0x40), lb.XDPBadHeader},
		{"the first of several fragments", frame(eth(v4), &first, data(64)), lb.XDPFragment},
		{"a later fragment", frame(eth(v4), &later, data(64)), lb.XDPFragment},
		{"SYN and ACK", segment("SA"), lb.XDPBadFlags},
		{"SYN and FIN", segment("SF"), lb.XDPBadFlags},
		{"SYN and RST", segment("SR"), lb.XDPBadFlags},
		{"no flags at all", segment(""), lb.XDPBadFlags},
		{"FIN, PSH and URG", segment("FPU"), lb.XDPBadFlags},
		{"FIN without ACK", segment("F"), lb.XDPBadFlags},
		{"five IPv6 extension headers", frame(options(5)...), lb.XDPTooManyParts},
		{"an IPv6 extension that is not whole", cut(frame(options(1)...), 14+40+7), lb.XDPShort},
	} {
		if verdict, reason, _ := r.run(c.frame); verdict != drop || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want drop for %s", c.sentence, verdict, reason, c.reason)
		}
	}
	if verdict, reason, _ := r.run(frame(options(4)...)); verdict != redirect || reason != lb.XDPSent {
		t.Errorf("four IPv6 extension headers: verdict %d for %s, want redirect", verdict, reason)
	}
}

func TestOurOwnRowsPassWithoutALookup(t *testing.T) {
	r := newRig(t, edge1)
	for name, s := range map[string]lb.Steering{"without epochs": steering(edge1), "as the one member": steering(edge1, only(edge1))} {
		r.apply(s)
		for _, f := range [][]byte{segment("S"), segment("A"), segment("FA"), segment("R"), segment6("S"), segment6("PA")} {
			verdict, reason, out := r.run(f)
			if verdict != pass || reason != lb.XDPLocal || !bytes.Equal(out, f) {
				t.Errorf("%s: verdict %d for %s, want pass for %s, unchanged", name, verdict, reason, lb.XDPLocal)
			}
		}
	}
}

func TestEncapsulationToTheOwner(t *testing.T) {
	s := steering(edge1, only(edge2))
	r := newRig(t, edge1).apply(s)
	for _, c := range []struct {
		sentence string
		frame    []byte
		l3       int
		tuple    lb.Tuple
	}{
		{"an IPv4 SYN", segment("S"), 14, tuple(lb.TCP, client4, 40000, "192.0.2.10", 80)},
		{"a TCP Fast Open SYN, with its cookie and data, is a SYN", fastOpen(), 14, tuple(lb.TCP, client4, 40000, "192.0.2.10", 80)},
		{"an IPv4 segment", segment("A"), 14, tuple(lb.TCP, client4, 40000, "192.0.2.10", 80)},
		{"an IPv6 SYN", segment6("S"), 14, tuple(lb.TCP, client6, 40000, "2001:db8::10", 80)},
		{"a datagram", frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(9, 53), data(30)), 14, tuple(lb.UDP, client4, 9, "192.0.2.10", 53)},
		{"any port", frame(eth(v4), ip4(client4, "192.0.2.11", layers.IPProtocolTCP), tcp(9, 4711, "S"), data(10)), 14, tuple(lb.TCP, client4, 9, "192.0.2.11", 4711)},
		{"one VLAN tag", frame(eth(layers.EthernetTypeDot1Q), vlan(5, v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(9, 80, "S"), data(10)), 18, tuple(lb.TCP, client4, 9, "192.0.2.10", 80)},
		{"two VLAN tags", frame(eth(layers.EthernetTypeQinQ), vlan(5, layers.EthernetTypeDot1Q), vlan(6, v6), ip6(client6, "2001:db8::10", layers.IPProtocolTCP), tcp(9, 80, "S"), data(10)), 22, tuple(lb.TCP, client6, 9, "2001:db8::10", 80)},
	} {
		verdict, reason, out := r.run(c.frame)
		if verdict != redirect || reason != lb.XDPSent {
			t.Errorf("%s: verdict %d for %s, want redirect for %s", c.sentence, verdict, reason, lb.XDPSent)
			continue
		}
		o := readOuter(t, out)
		hash := flowHash(seed, c.tuple)
		if o.from != edge1.Address || o.to != edge2.Address || !bytes.Equal(out[:6], macs[0][:]) || !bytes.Equal(out[6:12], macs[1][:]) {
			t.Errorf("%s: sent from %s to %s by frame % x", c.sentence, o.from, o.to, out[:14])
		}
		if o.port != 0xc000|uint16(hash)&0x3fff {
			t.Errorf("%s: source port %#x is not of the hash %#x", c.sentence, o.port, hash)
		}
		if o.place != 0x10 || o.tag != s.Tags[0] || o.view != lb.View(s.Epochs) || o.extra != nil {
			t.Errorf("%s: path %+v", c.sentence, o)
		}
		if want := aged(c.frame[c.l3:]); !bytes.Equal(o.inner, want) {
			t.Errorf("%s: inside is\n% x, want the packet with its TTL one less\n% x", c.sentence, o.inner, want)
		}
	}
}

func tuple(p lb.Protocol, src string, sport uint16, dst string, dport uint16) lb.Tuple {
	return lb.Tuple{
		Protocol: p,
		Src:      netip.AddrPortFrom(netip.MustParseAddr(src), sport),
		Dst:      netip.AddrPortFrom(netip.MustParseAddr(dst), dport),
	}
}

// aged returns the packet with its TTL or hop limit one less, checksum right.
func aged(packet []byte) []byte {
	p := bytes.Clone(packet)
	if p[0]>>4 == 6 {
		p[7]--
		return p
	}
	p[8]--
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], headerSum(p[:int(p[0]&15)*4]))
	return p
}

func headerSum(h []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

type outer struct {
	from, to netip.Addr
	port     uint16
	place    byte
	flags    byte
	view     uint16
	tag      uint32
	extra    []netip.Addr
	inner    []byte
}

// readOuter checks every field of the encapsulation that has one right value.
func readOuter(t *testing.T, f []byte) (o outer) {
	t.Helper()
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	ip, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	u, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if ip == nil || u == nil {
		t.Fatalf("no IPv4 and UDP in % x", f)
	}
	f = f[:min(len(f), 14+int(ip.Length))] // Ethernet pads short frames
	if headerSum(f[14:34]) != 0 || int(ip.Length) != len(f)-14 || ip.TTL != 64 || ip.Flags != layers.IPv4DontFragment {
		t.Errorf("outer IPv4 header % x of a frame of %d bytes", f[14:34], len(f))
	}
	if u.DstPort != bpf.TunnelPort || int(u.Length) != len(f)-34 || u.Checksum != 0 {
		t.Errorf("outer UDP header % x", f[34:42])
	}
	g := f[42:]
	hops := int(g[5] >> 4)
	inner := 12 + 4*(hops-1)
	protocol := map[byte]byte{4: 4, 6: 41}[g[inner]>>4]
	if g[0] != byte(2+hops-1) || g[1] != protocol || g[2] != 0 || g[3] != 0 || g[4]&^1 != 0x10 {
		t.Errorf("GUE header % x of %d hops", g[:12], hops)
	}
	for i := range hops - 1 {
		a, _ := netip.AddrFromSlice(g[12+4*i : 16+4*i])
		o.extra = append(o.extra, a)
	}
	o.from, _ = netip.AddrFromSlice(ip.SrcIP)
	o.to, _ = netip.AddrFromSlice(ip.DstIP)
	o.port, o.place, o.flags = uint16(u.SrcPort), g[5], g[4]&0xf
	o.view, o.tag = binary.BigEndian.Uint16(g[6:]), binary.BigEndian.Uint32(g[8:])
	o.inner = g[inner:]
	return o
}

func TestTheOwnerTakesThePacketOutAgain(t *testing.T) {
	set := only(idle(edge1), edge2)
	ingress := newRig(t, edge1).apply(steering(edge1, set))
	owner := newRig(t, edge2).apply(steering(edge2, set))
	for sentence, f := range map[string][]byte{"IPv4": segment("S"), "IPv6": segment6("A"), "a datagram": frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolUDP), udp(9, 53), data(30))} {
		_, _, sent := ingress.run(f)
		verdict, reason, out := owner.run(sent)
		if verdict != pass || reason != lb.XDPReceived {
			t.Errorf("%s: verdict %d for %s", sentence, verdict, reason)
		}
		if len(out) > 14 && !bytes.Equal(out[14:], aged(f[14:])) {
			t.Errorf("%s: came out as\n% x, want\n% x", sentence, out[14:], aged(f[14:]))
		}
		if len(out) > 14 && !bytes.Equal(out[:12], macs2()) {
			t.Errorf("%s: frame addresses % x", sentence, out[:12])
		}
	}
}

func macs2() []byte { return append(bytes.Clone(macs[0][:]), macs[1][:]...) }

func TestTheHashIsTheSameInGoAndC(t *testing.T) {
	members := only(edge1, edge2, edge3)
	s := steering(edge1, members)
	s.VIPs = append(s.VIPs, lb.VIP{Addr: vip6.Addr, Protocol: lb.TCP})
	r := newRig(t, edge1).apply(s)
	owners := Owners(members)
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		sport, dport := uint16(random.Uint32()), uint16(random.Uint32())
		var tu lb.Tuple
		var f []byte
		if random.IntN(2) == 0 {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], random.Uint32())
			src := netip.AddrFrom4(a).String()
			tu = tuple(lb.TCP, src, sport, "192.0.2.11", dport)
			f = frame(eth(v4), ip4(src, "192.0.2.11", layers.IPProtocolTCP), tcp(int(sport), int(dport), "S"))
		} else {
			a := [16]byte{0x20, 1}
			binary.BigEndian.PutUint64(a[4:], random.Uint64())
			binary.BigEndian.PutUint32(a[12:], random.Uint32())
			src := netip.AddrFrom16(a).String()
			tu = tuple(lb.TCP, src, sport, "2001:db8::10", dport)
			f = frame(eth(v6), ip6(src, "2001:db8::10", layers.IPProtocolTCP), tcp(int(sport), int(dport), "S"))
		}
		hash := flowHash(seed, tu)
		owner := members[owners[rowOf(hash)]]
		verdict, reason, out := r.run(f)
		if owner.Name == "edge-1" {
			if verdict != pass || reason != lb.XDPLocal {
				t.Fatalf("%s: verdict %d for %s; in Go it is ours", tu, verdict, reason)
			}
			continue
		}
		if o := readOuter(t, out); o.to != owner.Address || o.port&0x3fff != uint16(hash)&0x3fff {
			t.Fatalf("%s: sent to %s with port %#x; in Go it belongs to %s, hash %#x", tu, o.to, o.port, owner.Name, hash)
		}
	}
}
