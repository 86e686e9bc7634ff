package l4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// established opens a TCP connection on loopback and returns what the client's
// next segment looks like.
func established(t *testing.T) []byte {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return segmentAt(c, sequence(t, c))
}

// segmentAt is a segment of a connection's client.
func segmentAt(c net.Conn, seq uint32) []byte {
	segment := tcp(c.LocalAddr().(*net.TCPAddr).Port, c.RemoteAddr().(*net.TCPAddr).Port, "A")
	segment.Seq = seq
	return frame(eth(v4), ip4("127.0.0.1", "127.0.0.1", layers.IPProtocolTCP), segment, data(10))
}

// sequence is the number of the next byte that a socket sends.
func sequence(t *testing.T, c net.Conn) (next uint32) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(f uintptr) {
		fd := int(f)
		const sendQueue = 2
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, sendQueue)
		seq, seqErr := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		next, err = uint32(seq), seqErr
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// A node that lost its link keeps sockets whose clients are gone. Once it has its
// rows back, new connections from the same ports must not end at them.
func TestASocketKeepsTheSegmentsThatItExpectsOnly(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next := sequence(t, c)
	r := newRig(t, edge1).apply(steering(edge1, idleBut(edge1), idleBut(edge2)))
	for _, k := range []struct {
		sentence string
		seq      uint32
		reason   lb.Reason
	}{
		{"what comes next", next, lb.XDPFound},
		{"an old segment again", next - 100_000, lb.XDPFound},
		{"what comes after a lost segment", next + 50_000, lb.XDPFound},
		{"a later connection's", next + 1<<26, lb.XDPMissed},
		{"a later connection's, numbers having turned over", next - 1<<26, lb.XDPMissed},
	} {
		if _, reason, _ := r.run(segmentAt(c, k.seq)); reason != k.reason {
			t.Errorf("%s: %s, want %s", k.sentence, reason, k.reason)
		}
	}
}

// listening returns a segment to a socket that listens but knows no such flow.
func listening(t *testing.T) []byte {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return frame(eth(v4), ip4("127.0.0.1", "127.0.0.1", layers.IPProtocolTCP), tcp(1, l.Addr().(*net.TCPAddr).Port, "A"), data(10))
}

func TestTheChainIsAskedNewestFirst(t *testing.T) {
	known, unknown := established(t), segment("A")
	set := func(m lb.Member) []lb.Member { return only(idleBut(m)...) }
	one, two, three := set(edge1), set(edge2), set(edge3)
	r := newRig(t, edge1)
	for _, c := range []struct {
		sentence string
		epochs   [][]lb.Member
		frame    []byte
		verdict  uint32
		reason   lb.Reason
		to       lb.Member
		place    byte
		extra    []netip.Addr
	}{
		{"ours now, and the socket is here", [][]lb.Member{one, two}, known, pass, lb.XDPFound, lb.Member{}, 0, nil},
		{"ours now, no socket: the owner before is asked", [][]lb.Member{one, two}, unknown, redirect, lb.XDPMissed, edge2, 0x10, nil},
		{"ours now, only a listening socket", [][]lb.Member{one, two}, listening(t), redirect, lb.XDPMissed, edge2, 0x10, nil},
		{"ours now, a SYN asks nobody", [][]lb.Member{one, two}, segment("S"), pass, lb.XDPLocal, lb.Member{}, 0, nil},
		{"ours now, two owners before", [][]lb.Member{one, two, three}, unknown, redirect, lb.XDPMissed, edge2, 0x20, []netip.Addr{edge3.Address}},
		{"somebody else's now, ours before: newest first all the same", [][]lb.Member{two, one}, known, redirect, lb.XDPSent, edge2, 0x20, []netip.Addr{edge1.Address}},
		{"two others and us", [][]lb.Member{two, three, one}, unknown, redirect, lb.XDPSent, edge2, 0x30, []netip.Addr{edge3.Address, edge1.Address}},
		{"a SYN goes to the newest only", [][]lb.Member{two, three, one}, segment("S"), redirect, lb.XDPSent, edge2, 0x10, nil},
		{"an RST follows the chain", [][]lb.Member{two, one}, segment("R"), redirect, lb.XDPSent, edge2, 0x20, []netip.Addr{edge1.Address}},
		{"a fourth owner is forgotten", [][]lb.Member{two, three, one, set(edge4)}, unknown, redirect, lb.XDPSent, edge2, 0x30, []netip.Addr{edge3.Address, edge1.Address}},
		{"nobody takes new connections: an owner before gets its segments", [][]lb.Member{set(lb.Member{}), two}, unknown, redirect, lb.XDPSent, edge2, 0x10, nil},
		{"nobody takes new connections: no SYN goes anywhere", [][]lb.Member{set(lb.Member{}), two}, segment("S"), drop, lb.XDPNoOwner, lb.Member{}, 0, nil},
	} {
		verdict, reason, out := r.apply(steering(edge1, c.epochs...)).run(c.frame)
		if verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
			continue
		}
		if verdict != redirect {
			continue
		}
		if o := readOuter(t, out); o.to != c.to.Address || o.place != c.place || fmt.Sprint(o.extra) != fmt.Sprint(c.extra) {
			t.Errorf("%s: sent to %s, place %#x, then %v; want %s, %#x, %v", c.sentence, o.to, o.place, o.extra, c.to.Address, c.place, c.extra)
		}
	}
}

var edge4 = lb.Member{Name: "edge-4", Boot: lb.BootID{4}, Address: netip.MustParseAddr("10.0.0.4"), Weight: 4}

// idleBut makes a set of three nodes, in which only one takes new connections,
// or a set of that one when it is not among the three.
func idleBut(m lb.Member) (set []lb.Member) {
	if m.Name == edge4.Name {
		return only(edge4)
	}
	for _, n := range only(edge1, edge2, edge3) {
		if n.Name != m.Name {
			n = idle(n)
		}
		set = append(set, n)
	}
	return set
}

// tunnelled builds what edge-1 sends to edge-2: a path with these hops after it.
func tunnelled(inner []byte, place byte, hops ...lb.Member) []byte {
	return tunnelledFrom(edge1.Address, inner, place, hops...)
}

// agreeing gives an encapsulated frame the view that the rig has.
func (r *rig) agreeing(f []byte) []byte { return r.agreeingBehind(f, 0) }

func (r *rig) agreeingBehind(f []byte, tags int) []byte {
	view := 14 + tags + 20 + 8 + 4 + 2
	if len(f) >= view+2 {
		copy(f[view:], r.have.node.View[:])
	}
	return f
}

func tunnelledFrom(from netip.Addr, inner []byte, place byte, hops ...lb.Member) []byte {
	packet := inner[14:]
	if packet[0]>>4 == 4 {
		packet = packet[:binary.BigEndian.Uint16(packet[2:])]
	}
	protocol := byte(4)
	if packet[0]>>4 == 6 {
		protocol = 41
	}
	gue := []byte{byte(2 + len(hops)), protocol, 0, 0, 0x10, place, 0, 0, 0xfe, 0xed, 0xfa, 0xce}
	for _, h := range hops {
		gue = append(gue, h.Address.AsSlice()...)
	}
	o := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: edge2.Address.AsSlice()}
	f := frame(eth(v4), o, &layers.UDP{SrcPort: 0xc001, DstPort: bpf.TunnelPort}, gopacket.Payload(append(gue, packet...)))
	f[40], f[41] = 0, 0 // no UDP checksum
	return f
}

func TestAtAHop(t *testing.T) {
	known, unknown := established(t), segment("A")
	s := steering(edge2, idleBut(edge1))
	s.Tags = []uint32{0x11111111, 0xfeedface} // the sender has not rotated yet
	r := newRig(t, edge2).apply(s)
	for _, c := range []struct {
		sentence string
		frame    []byte
		verdict  uint32
		reason   lb.Reason
		to       netip.Addr
		place    byte
	}{
		{"the one hop takes it unseen", tunnelled(unknown, 0x10), pass, lb.XDPReceived, netip.Addr{}, 0},
		{"the last of two does not know the flow", tunnelled(unknown, 0x21, edge2), pass, lb.XDPMissLastHop, netip.Addr{}, 0},
		{"the last of two knows the flow", tunnelled(known, 0x21, edge2), pass, lb.XDPLastHop, netip.Addr{}, 0},
		{"the first of two knows the flow", tunnelled(known, 0x20, edge3), pass, lb.XDPFound, netip.Addr{}, 0},
		{"the first of two does not know the flow", tunnelled(unknown, 0x20, edge3), redirect, lb.XDPMissed, edge3.Address, 0x21},
		{"the second of three does not know the flow", tunnelled(unknown, 0x31, edge2, edge3), redirect, lb.XDPMissed, edge3.Address, 0x32},
		{"the first of three does not know an IPv6 flow", tunnelled(segment6("A"), 0x30, edge3, edge1), redirect, lb.XDPMissed, edge3.Address, 0x31},
		{"a SYN is taken wherever it comes", tunnelled(segment("S"), 0x20, edge3), pass, lb.XDPReceived, netip.Addr{}, 0},
		{"a hop that is us is here", tunnelled(unknown, 0x20, edge2), pass, lb.XDPLastHop, netip.Addr{}, 0},
		{"the next hop is no peer", tunnelled(unknown, 0x20, edge4), drop, lb.XDPUnknownHop, netip.Addr{}, 0},
	} {
		verdict, reason, out := r.run(r.agreeing(c.frame))
		if verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
			continue
		}
		inner := c.frame[42+4*int(c.frame[42])+4:]
		switch verdict {
		case pass:
			if !bytes.Equal(out[14:], inner) {
				t.Errorf("%s: the stack gets\n% x, want\n% x", c.sentence, out[14:], inner)
			}
		case redirect:
			o := readOuter(t, out)
			if o.from != edge2.Address || o.to != c.to || o.place != c.place || o.port != 0xc001 || !bytes.Equal(o.inner, aged(inner)) {
				t.Errorf("%s: sent on as %+v, want to %s, place %#x", c.sentence, o, c.to, c.place)
			}
		}
	}
}

func TestWhatIsNoTunnelOfOursIsDropped(t *testing.T) {
	r := newRig(t, edge2).apply(steering(edge2, only(edge1, edge2, edge3)))
	good := func() []byte { return tunnelled(segment("A"), 0x10) }
	const gue = 42
	padded := append(good(), 0, 0, 0, 0)
	fragment := good()
	fragment[20] = 0x20
	for _, c := range []struct {
		sentence string
		frame    []byte
		reason   lb.Reason
	}{
		{"a header that is not whole", cut(good(), gue+11), lb.XDPBadTunnel},
		{"hops that are not whole", cut(tunnelled(segment("A"), 0x30, edge1, edge3), gue+12+3), lb.XDPBadTunnel},
		{"GUE control message", edit(good(), gue, 0x22), lb.XDPBadTunnel},
		{"GUE version 1", edit(good(), gue, 0x42), lb.XDPBadTunnel},
		{"GUE flags", edit(good(), gue+2, 0x80), lb.XDPBadTunnel},
		{"an unknown inner protocol", edit(good(), gue+1, 17), lb.XDPBadTunnel},
		{"version 2 of the path", edit(good(), gue+4, 0x20), lb.XDPBadTunnel},
		{"a flag that we do not know", edit(good(), gue+4, 0x12), lb.XDPBadTunnel},
		{"no hops", edit(good(), gue+5, 0x00), lb.XDPBadTunnel},
		{"four hops", edit(edit(good(), gue+5, 0x40), gue, 5), lb.XDPBadTunnel},
		{"more hops than the length says", edit(good(), gue+5, 0x20), lb.XDPBadTunnel},
		{"an index past the hops", edit(good(), gue+5, 0x11), lb.XDPBadTunnel},
		{"a fragment", fragment, lb.XDPBadTunnel},
		{"another tag", edit(good(), gue+8, 0xff), lb.XDPBadTag},
		{"a stranger", tunnelledFrom(edge4.Address, segment("A"), 0x10), lb.XDPStranger},
		{"ourselves", tunnelledFrom(edge2.Address, segment("A"), 0x10), lb.XDPStranger},
		{"not to a VIP", tunnelled(frame(eth(v4), ip4(client4, "192.0.2.99", layers.IPProtocolTCP), tcp(1, 80, "A")), 0x10), lb.XDPBadInner},
		{"a tunnel in the tunnel", tunnelled(good(), 0x10), lb.XDPBadInner},
		{"a ping in the tunnel", tunnelled(frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, data(56)), 0x10), lb.XDPBadInner},
		{"a fragment in the tunnel", edit(good(), gue+12+6, 0x20), lb.XDPFragment},
		{"an inner header that is not whole", cut(good(), gue+12+19), lb.XDPShort},
		{"an inner packet longer than the tunnel", edit(good(), gue+12+3, 0x70), lb.XDPBadTunnel},
	} {
		if verdict, reason, _ := r.run(c.frame); verdict != drop || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want drop for %s", c.sentence, verdict, reason, c.reason)
		}
	}
	if verdict, reason, _ := r.run(r.agreeing(padded)); verdict != pass || reason != lb.XDPReceived {
		t.Errorf("Ethernet padding behind the packet: verdict %d for %s, want pass", verdict, reason)
	}
	deaf := steering(edge2, only(edge1, edge2, edge3))
	deaf.Tags = nil
	if verdict, reason, _ := r.apply(deaf).run(good()); verdict != drop || reason != lb.XDPBadTag {
		t.Errorf("without a tag of our own: verdict %d for %s, want drop for %s", verdict, reason, lb.XDPBadTag)
	}
}

func TestTunnelsThroughAVLANKeepTheTag(t *testing.T) {
	r := newRig(t, edge2).apply(steering(edge2, idleBut(edge1)))
	for _, tags := range []int{1, 2} {
		in := tunnelled(segment("A"), 0x10)
		for range tags {
			in = append(append(bytes.Clone(in[:12]), 0x81, 0, 0, 5), in[12:]...)
		}
		verdict, reason, out := r.run(r.agreeingBehind(in, 4*tags))
		want := append(bytes.Clone(in[:14+4*tags]), segment("A")[14:]...)
		if verdict != pass || reason != lb.XDPReceived || !bytes.Equal(out, want) {
			t.Errorf("%d tags: verdict %d for %s, out\n% x, want\n% x", tags, verdict, reason, out, want)
		}
		in = append(bytes.Clone(in[:14+4*tags]), tunnelled(segment("A"), 0x20, edge3)[14:]...)
		verdict, reason, out = r.run(r.agreeingBehind(in, 4*tags))
		if verdict != redirect || reason != lb.XDPMissed || !bytes.Equal(out[12:14], []byte{8, 0}) {
			t.Errorf("%d tags, sent on: verdict %d for %s, out % x", tags, verdict, reason, out)
		}
	}
}

func TestForwardingIsGuarded(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, idleBut(edge2)))
	if verdict, reason, _ := r.run(edit(segment("A"), 14+8, 1)); verdict != drop || reason != lb.XDPHopLimit {
		t.Errorf("TTL 1: verdict %d for %s", verdict, reason)
	}
	if verdict, reason, _ := r.run(edit(segment6("A"), 14+7, 1)); verdict != drop || reason != lb.XDPHopLimit {
		t.Errorf("hop limit 1: verdict %d for %s", verdict, reason)
	}
	big := frame(eth(v4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(1, 80, "A"), data(1460))
	if verdict, reason, _ := r.run(big); verdict != redirect || reason != lb.XDPSent {
		t.Errorf("1500 bytes over an MTU of 1600: verdict %d for %s", verdict, reason)
	}
	r.ways(func(p *bpf.Peer) { p.MTU = 1539 })
	if verdict, reason, _ := r.run(big); verdict != redirect || reason != lb.XDPTold {
		t.Errorf("1500 bytes over an MTU of 1539: verdict %d for %s", verdict, reason)
	}
	r.ways(func(p *bpf.Peer) { p.ValidUntil = 1 })
	verdict, reason, out := r.run(segment("A"))
	if verdict != pass || reason != lb.XDPUnresolved {
		t.Errorf("an expired way: verdict %d for %s", verdict, reason)
	} else if o := readOuter(t, out); o.to != edge2.Address || !bytes.Equal(out[:12], segment("A")[:12]) {
		t.Errorf("an expired way: the kernel gets % x", out)
	}
	r.ways(func(p *bpf.Peer) { p.ValidUntil, p.Flags = 0, bpf.PeerByKernel })
	if verdict, reason, _ := r.run(segment("A")); verdict != pass || reason != lb.XDPUnresolved {
		t.Errorf("an interface that takes no frames from XDP: verdict %d for %s", verdict, reason)
	}
	r.ways(func(p *bpf.Peer) { p.Flags, p.Ifindex = bpf.PeerBounce, 1 }) // 1 is lo, where test packets arrive
	if verdict, _, _ := r.run(segment("A")); verdict != bounce {
		t.Errorf("back through the interface it came by: verdict %d", verdict)
	}
}

func TestICMPErrorsFollowTheirFlow(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, idleBut(edge2), idleBut(edge1)))
	// The VIP's segment to the client, as a router on the way quotes it.
	quoted4 := frame(ip4("192.0.2.10", client4, layers.IPProtocolTCP), tcp(80, 40000, "A"))[:28]
	quoted6 := frame(ip6("2001:db8::10", client6, layers.IPProtocolTCP), tcp(80, 40000, "A"))[:48]
	icmp4 := func(kind uint8, quoted []byte) []byte {
		return frame(eth(v4), ip4("203.0.113.1", "192.0.2.10", layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 4)}, gopacket.Payload(quoted))
	}
	icmp6 := func(kind uint8, quoted []byte) []byte {
		return frame(eth(v6), ip6("2001:db8:5::1", "2001:db8::10", layers.IPProtocolICMPv6),
			&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}, gopacket.Payload(append([]byte{0, 0, 5, 0}, quoted...)))
	}
	options := bytes.Clone(quoted4)
	options[0] = 0x46
	options = append(options[:20], append([]byte{1, 1, 1, 1}, options[20:]...)...)
	later := edit(bytes.Clone(quoted4), 7, 9)
	for _, c := range []struct {
		sentence string
		frame    []byte
		reason   lb.Reason
	}{
		{"fragmentation needed", icmp4(3, quoted4), lb.XDPSent},
		{"time exceeded", icmp4(11, quoted4), lb.XDPSent},
		{"parameter problem", icmp4(12, quoted4), lb.XDPSent},
		{"IPv4 options in the quoted header", icmp4(3, options), lb.XDPSent},
		{"packet too big", icmp6(2, quoted6), lb.XDPSent},
		{"IPv6 unreachable", icmp6(1, quoted6), lb.XDPSent},
		{"a quoted header that is not whole", icmp4(3, quoted4[:19]), lb.XDPICMP},
		{"quoted ports that are not whole", icmp4(3, quoted4[:23]), lb.XDPICMP},
		{"a quoted fragment", icmp4(3, later), lb.XDPICMP},
		{"a quoted packet of somebody else", icmp4(3, edit(bytes.Clone(quoted4), 15, 77)), lb.XDPICMP},
		{"a quoted IPv6 packet of somebody else", icmp6(2, edit(bytes.Clone(quoted6), 23, 77)), lb.XDPICMP},
		{"a redirect", icmp4(5, quoted4), lb.XDPICMP},
		{"a neighbour solicitation", icmp6(135, quoted6), lb.XDPICMP},
	} {
		verdict, reason, out := r.run(c.frame)
		if reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %s", c.sentence, verdict, reason, c.reason)
			continue
		}
		if reason != lb.XDPSent {
			continue
		}
		// The same owner and the same ports as the flow's own segments.
		own := segment("A")
		if c.frame[14]>>4 == 6 {
			own = segment6("A")
		}
		_, _, flow := r.run(own)
		got, want := readOuter(t, out), readOuter(t, flow)
		if got.to != want.to || got.port != want.port || got.place != 0x20 {
			t.Errorf("%s: sent to %s by port %#x, the flow to %s by %#x", c.sentence, got.to, got.port, want.to, want.port)
		}
	}
}

// resting returns a connection whose server side is in TIME_WAIT here, and the
// sequence number that follows its client's last byte.
func resting(t *testing.T, l net.Listener) (client *net.TCPAddr, server int, next uint32) {
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	next = sequence(t, c) + 1 // its FIN counts as one
	s.Close()
	io.ReadAll(c)
	c.Close()
	return c.LocalAddr().(*net.TCPAddr), l.Addr().(*net.TCPAddr).Port, next
}

func TestAConnectionInTIMEWAITKeepsItsOwnSegmentsOnly(t *testing.T) {
	s := steering(edge1, idleBut(edge1), idleBut(edge2))
	r := newRig(t, edge1)
	_, plain := listeners(t, "127.0.0.1:0", 1)
	bind, steered := listeners(t, "127.0.0.1:0", 1)
	s.Binds = []lb.SteeredBind{bind}
	r.apply(s)
	r.keepsItsOwnSegmentsOnly("a listener of its own", plain[0])
	// What such a listener accepts is not of TCP's own protocol to the kernel.
	r.keepsItsOwnSegmentsOnly("a listener in the SOCKMAP", steered[0])
}

func (r *rig) keepsItsOwnSegmentsOnly(listener string, l net.Listener) {
	client, server, next := resting(r.t.(*testing.T), l)
	for _, c := range []struct {
		sentence string
		seq      uint32
		flags    string
		reason   lb.Reason
	}{
		{"its FIN again", next - 1, "FA", lb.XDPFound},
		{"an acknowledgement", next, "A", lb.XDPFound},
		{"data of a connection that took the same ports later", next + 70_000, "PA", lb.XDPMissed},
		{"data far behind", next - 1<<25, "PA", lb.XDPMissed},
	} {
		segment := tcp(client.Port, server, c.flags)
		segment.Seq = c.seq
		_, reason, _ := r.run(frame(eth(v4), ip4("127.0.0.1", "127.0.0.1", layers.IPProtocolTCP), segment, data(10)))
		if reason != c.reason {
			r.t.Errorf("%s, %s: %s, want %s", listener, c.sentence, reason, c.reason)
		}
	}
}

func TestWithoutAnOwner(t *testing.T) {
	s := steering(edge1, only(idle(edge1), idle(edge2)))
	r := newRig(t, edge1).apply(s)
	for _, f := range [][]byte{segment("S"), segment("A")} {
		if verdict, reason, _ := r.run(f); verdict != drop || reason != lb.XDPNoOwner {
			t.Errorf("no slot here: verdict %d for %s", verdict, reason)
		}
	}
	bind, _ := listeners(t, "127.0.0.1:0", 1)
	s.Binds = []lb.SteeredBind{bind}
	r.apply(s)
	for _, f := range [][]byte{segment("S"), segment("A")} {
		if verdict, reason, _ := r.run(f); verdict != pass || reason != lb.XDPAlone {
			t.Errorf("a slot is live here: verdict %d for %s", verdict, reason)
		}
	}
}
