package l4

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// The services' VIPs are other ports of the addresses that workers serve.
var (
	web4 = lb.VIP{Addr: netip.MustParseAddr("192.0.2.10"), Port: 8443, Protocol: lb.TCP}
	web6 = lb.VIP{Addr: netip.MustParseAddr("2001:db8::10"), Port: 8443, Protocol: lb.TCP}
	log4 = lb.VIP{Addr: netip.MustParseAddr("192.0.2.20"), Port: 514, Protocol: lb.UDP}
	log6 = lb.VIP{Addr: netip.MustParseAddr("2001:db8::20"), Port: 514, Protocol: lb.UDP}
	src4 = netip.MustParseAddr("10.0.0.1")
	src6 = netip.MustParseAddr("fd00::1")
)

const (
	b1, b2, b3 = "10.1.0.1", "10.1.0.2", "10.1.0.3"
	s1, s2     = "fd00:1::1", "fd00:1::2"
)

func service(vip lb.VIP, forward string, backends ...string) lb.SteeredService {
	s := lb.SteeredService{Name: "s", VIP: vip, Forward: forward, Hold: time.Hour}
	for _, b := range backends {
		s.Backends = append(s.Backends, lb.SteeredBackend{
			ID: lb.BackendID{Pool: "p", Address: b}, Address: netip.MustParseAddr(b), Weight: 1, Takes: true, Keeps: true,
		})
	}
	return s
}

func services(all ...lb.SteeredService) lb.Steering {
	s := steering(edge1)
	s.Services = all
	return s
}

// reachAll gives each backend a way, edited.
func (r *rig) reachAll(edit func(*bpf.Backend)) *rig {
	for n := range r.have.backends {
		b := r.loadBackend(n)
		b.Flags &= bpf.BackendKeeps
		b.ValidUntil, b.Ifindex, b.MTU, b.MACs, b.Source = monotonic()+1e12, fabric, 1600, macs, bpf.AddressOf(src4)
		if b.Address.Addr().Is6() {
			b.Source = bpf.AddressOf(src6)
		}
		edit(&b)
		r.storeBackend(n, b)
	}
	return r
}

func (r *rig) serve(all ...lb.SteeredService) *rig {
	r.t.Helper()
	return r.apply(services(all...)).reachAll(func(*bpf.Backend) {})
}

func to(vip lb.VIP, sport int, flags string) []byte {
	src, l3, ip := client4, eth(v4), layers.IPProtocolTCP
	if vip.Protocol == lb.UDP {
		ip = layers.IPProtocolUDP
	}
	if vip.Addr.Is6() {
		l3, src = eth(v6), client6
		if vip.Protocol == lb.UDP {
			return frame(l3, ip6(src, vip.Addr.String(), ip), udp(sport, int(vip.Port)), data(30))
		}
		return frame(l3, ip6(src, vip.Addr.String(), ip), tcp(sport, int(vip.Port), flags), data(30))
	}
	if vip.Protocol == lb.UDP {
		return frame(l3, ip4(src, vip.Addr.String(), ip), udp(sport, int(vip.Port)), data(30))
	}
	return frame(l3, ip4(src, vip.Addr.String(), ip), tcp(sport, int(vip.Port), flags), data(30))
}

// unwrap checks every byte of what goes round a packet to a backend and
// returns the backend and the packet.
func unwrap(t *testing.T, forward string, f []byte) (to netip.Addr, inner []byte) {
	t.Helper()
	if !bytes.Equal(f[:12], macs2()) {
		t.Errorf("frame addresses % x", f[:12])
	}
	protocol := byte(0)
	if f[12] == 0x08 {
		ip := f[14:34]
		length := int(ip[2])<<8 | int(ip[3])
		if headerSum(ip) != 0 || ip[0] != 0x45 || ip[8] != 64 || ip[6] != 0x40 || length > len(f)-14 {
			t.Errorf("outer IPv4 header % x", ip)
		}
		from, _ := netip.AddrFromSlice(ip[12:16])
		to, _ = netip.AddrFromSlice(ip[16:20])
		if from != src4 {
			t.Errorf("from %s", from)
		}
		protocol, inner = ip[9], f[34:14+length]
	} else {
		ip := f[14:54]
		length := int(ip[4])<<8 | int(ip[5])
		if f[12] != 0x86 || ip[0] != 0x60 || ip[7] != 64 || length > len(f)-54 {
			t.Errorf("outer IPv6 header % x", ip)
		}
		from, _ := netip.AddrFromSlice(ip[8:24])
		to, _ = netip.AddrFromSlice(ip[24:40])
		if from != src6 {
			t.Errorf("from %s", from)
		}
		protocol, inner = ip[6], f[54:54+length]
	}
	if forward == "gue" {
		u := inner[:8]
		if protocol != 17 || u[0] < 0xc0 || int(u[2])<<8|int(u[3]) != bpf.TunnelPort || int(u[4])<<8|int(u[5]) != len(inner) || u[6]|u[7] != 0 {
			t.Errorf("protocol %d, outer UDP header % x of %d bytes", protocol, u, len(inner))
		}
		g := inner[8:12]
		if g[0]|g[2]|g[3] != 0 {
			t.Errorf("GUE header % x", g)
		}
		protocol, inner = g[1], inner[12:]
	}
	if want := map[byte]byte{4: 4, 6: 41}[inner[0]>>4]; protocol != want {
		t.Errorf("the packet inside is announced as %d, want %d", protocol, want)
	}
	return to, inner
}

func TestAServiceSendsToItsBackend(t *testing.T) {
	r := newRig(t, edge1)
	for _, forward := range []string{"ipip", "gue", "l2"} {
		for _, vip := range []lb.VIP{web4, web6, log4, log6} {
			for _, b := range []string{b1, s1} {
				name := fmt.Sprintf("%s %s to %s", vip, forward, b)
				r.serve(service(vip, forward, b))
				f := to(vip, 40000, "S")
				verdict, reason, out := r.run(f)
				if verdict != redirect || reason != lb.XDPServed {
					t.Errorf("%s: verdict %d for %s", name, verdict, reason)
					continue
				}
				if forward == "l2" {
					if !bytes.Equal(out[:12], macs2()) || !bytes.Equal(out[12:], append(bytes.Clone(f[12:14]), aged(f[14:])...)) {
						t.Errorf("%s: sent % x", name, out)
					}
					continue
				}
				at, inner := unwrap(t, forward, out)
				if at.String() != b || !bytes.Equal(inner, aged(f[14:])) {
					t.Errorf("%s: sent to %s:\n% x, want\n% x", name, at, inner, aged(f[14:]))
				}
			}
		}
	}
}

func TestAServiceTakesTagsAway(t *testing.T) {
	r := newRig(t, edge1)
	for _, forward := range []string{"ipip", "gue", "l2"} {
		r.serve(service(web4, forward, b1))
		plain := to(web4, 40000, "S")
		tagged := frame(eth(layers.EthernetTypeQinQ), vlan(5, layers.EthernetTypeDot1Q), vlan(6, v4), data(0))
		tagged = append(tagged[:22], plain[14:]...)
		_, _, want := r.run(plain)
		verdict, reason, out := r.run(tagged)
		if verdict != redirect || reason != lb.XDPServed || !bytes.Equal(out, want) {
			t.Errorf("%s: verdict %d for %s:\n% x, want\n% x", forward, verdict, reason, out, want)
		}
	}
}

// backendOf runs a frame and says where it went.
func (r *rig) backendOf(f []byte) string {
	r.t.Helper()
	verdict, reason, out := r.run(f)
	if verdict != redirect || reason != lb.XDPServed {
		r.t.Fatalf("verdict %d for %s", verdict, reason)
	}
	at, _ := netip.AddrFromSlice(out[30:34])
	return at.String()
}

func TestTheRingIsTheSameInGoAndC(t *testing.T) {
	r := newRig(t, edge1)
	for _, byClient := range []bool{false, true} {
		s := service(web4, "ipip", b1, b2, b3)
		s.ByClient = byClient
		r.serve(s)
		places := r.planner.place(1, s.Backends)
		seen := map[string]int{}
		for port := range 300 {
			got := r.backendOf(to(web4, 1000+port, "A"))
			hash := flowHash(seed, tuple(lb.TCP, client4, uint16(1000+port), "192.0.2.10", 8443))
			if byClient {
				hash = clientHash(seed, netip.MustParseAddr(client4))
			}
			if want := s.Backends[places[rowOf(hash)]].Address.String(); got != want {
				t.Fatalf("by client %v, port %d: sent to %s, in Go it is %s", byClient, 1000+port, got, want)
			}
			seen[got]++
		}
		if byClient && len(seen) != 1 || !byClient && len(seen) != 3 {
			t.Errorf("by client %v: %v", byClient, seen)
		}
	}
}

func TestConnectionsStayWhenTheRingTurns(t *testing.T) {
	r := newRig(t, edge1).serve(service(web4, "ipip", b1, b2))
	old := map[int]string{}
	for port := range 200 {
		old[port] = r.backendOf(to(web4, 1000+port, "S"))
	}
	drained := service(web4, "ipip", b1, b2, b3)
	drained.Backends[0].Takes = false
	r.serve(drained)
	fresh := map[int]string{}
	for port := range 200 {
		if at := r.backendOf(to(web4, 1000+port, "A")); at != old[port] {
			t.Fatalf("a connection of %s went to %s when that was drained", old[port], at)
		}
		if fresh[port] = r.backendOf(to(web4, 2000+port, "S")); fresh[port] == b1 {
			t.Fatal("a new connection went to a drained backend")
		}
	}
	r.serve(service(web4, "ipip", b1, b2)) // b3 goes, b1 is back
	for port := range 200 {
		if at := r.backendOf(to(web4, 1000+port, "PA")); at != old[port] {
			t.Fatalf("a connection of %s went to %s", old[port], at)
		}
		if at := r.backendOf(to(web4, 2000+port, "FA")); at != fresh[port] && fresh[port] != b3 {
			t.Fatalf("a connection that began at %s, while the ring turned, went to %s", fresh[port], at)
		}
	}
	down := service(web4, "ipip", b1, b2)
	down.Backends[0].Takes, down.Backends[0].Keeps = false, false
	r.serve(down)
	for port := range 200 {
		if at := r.backendOf(to(web4, 1000+port, "A")); at != b2 {
			t.Fatalf("a segment went to %s, which is down", at)
		}
	}
}

func TestANumberThatChangedHandsIsNotBelieved(t *testing.T) {
	r := newRig(t, edge1).serve(service(web4, "ipip", b1, b2))
	drained := service(web4, "ipip", b1, b2)
	drained.Backends[0].Takes = false
	r.serve(drained)
	for port := range 50 {
		r.backendOf(to(web4, port, "S")) // those of b1's places are written down as b2's
	}
	next := service(web4, "ipip", b1)
	r.serve(next) // b2 goes
	next = service(web4, "ipip", b1, b3)
	next.Backends[1].Takes = false
	r.serve(next) // b3 gets its number, and nothing else
	for port := range 50 {
		if at := r.backendOf(to(web4, port, "A")); at != b1 {
			t.Fatalf("a segment went to %s, which never took anything", at)
		}
	}
}

func TestDatagramsFollowTheRing(t *testing.T) {
	r := newRig(t, edge1).serve(service(log4, "ipip", b1, b2))
	drained := service(log4, "ipip", b1, b2)
	drained.Backends[0].Takes = false
	r.serve(drained)
	for port := range 50 {
		if at := r.backendOf(to(log4, 1000+port, "")); at != b2 {
			t.Fatalf("a datagram went to %s, which is drained", at)
		}
	}
}

func TestWhatAServiceCannotSend(t *testing.T) {
	r := newRig(t, edge1)
	down := service(web4, "ipip", b1)
	down.Backends[0].Takes, down.Backends[0].Keeps = false, false
	expired := edit(to(web4, 1, "S"), 14+8, 1)
	for _, c := range []struct {
		sentence string
		service  lb.SteeredService
		edit     func(*bpf.Backend)
		frame    []byte
		verdict  uint32
		reason   lb.Reason
	}{
		{"nobody takes it", down, nil, to(web4, 1, "S"), drop, lb.XDPNoBackend},
		{"no backend at all", service(web4, "ipip"), nil, to(web4, 1, "A"), drop, lb.XDPNoBackend},
		{"its TTL is used up", service(web4, "gue", b1), nil, expired, drop, lb.XDPHopLimit},
		{"the frame is not whole", service(web4, "ipip", b1), nil, cut(to(web4, 1, "S"), 14+20+20+5), drop, lb.XDPShort},
		{"the backend is this node", service(web4, "ipip", b1), func(b *bpf.Backend) { b.Flags |= bpf.BackendHere }, to(web4, 1, "S"), pass, lb.XDPServedHere},
		{"no route", service(web4, "ipip", b1), func(b *bpf.Backend) { b.ValidUntil = 0 }, to(web4, 1, "S"), pass, lb.XDPUnresolved},
		{"a bridge, encapsulated: the kernel sends", service(web4, "gue", b1), func(b *bpf.Backend) { b.ValidUntil, b.Flags = 0, b.Flags|bpf.BackendByKernel }, to(web4, 1, "S"), pass, lb.XDPUnresolved},
		{"a bridge, by MAC address", service(web4, "l2", b1), func(b *bpf.Backend) { b.ValidUntil, b.Flags = 0, b.Flags|bpf.BackendByKernel }, to(web4, 1, "S"), drop, lb.XDPNoNeighbour},
		{"back where it came from, with XDP_TX", service(web4, "l2", b1), func(b *bpf.Backend) { b.Flags, b.Ifindex = b.Flags|bpf.BackendBounce, 1 }, to(web4, 1, "S"), bounce, lb.XDPServed},
	} {
		r.serve(c.service)
		if c.edit != nil {
			r.reachAll(c.edit)
		}
		if verdict, reason, _ := r.run(c.frame); verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
		}
	}
}

func TestWhatABackendGotIsCounted(t *testing.T) {
	r := newRig(t, edge1).serve(service(web4, "ipip", b1))
	r.run(to(web4, 1, "S"))
	r.run(to(web4, 1, "A"))
	for n := range r.have.backends {
		got, err := r.kernel.traffic(n)
		if want := (bpf.Traffic{Packets: 2, Bytes: 140, Connections: 1}); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
}

func TestServicesAreAdoptedAsTheyAre(t *testing.T) {
	r := newRig(t, edge1).serve(service(web4, "gue", b1, b2), service(log6, "l2", s1))
	drained := service(web4, "gue", b1, b2)
	drained.Backends[0].Takes = false
	r.serve(drained, service(log6, "l2", s1))
	found, err := (&kernel{Objects: r.Objects, rows: r.rows, node: r.node, peers: r.peers, vipTable: r.vipTable, backends: r.backends}).read()
	if err != nil {
		t.Fatal(err)
	}
	want, err := (&planner{address: edge1.Address, owners: map[uint64][]int16{}, cookie: cookieOf}).plan(services(drained, service(log6, "l2", s1)), found)
	if err != nil {
		t.Fatal(err)
	}
	found.routes = want.routes // which are no map
	if w := diff(found, want); len(w) != 0 {
		t.Errorf("a restart would write %d times, first %s", len(w), w[0])
	}
}

func TestICMPErrorsGoToTheBackendOfTheirFlow(t *testing.T) {
	r := newRig(t, edge1).serve(service(web4, "ipip", b1, b2, b3), service(log4, "ipip", b1, b2, b3))
	icmp := func(kind uint8, quoted []byte) []byte {
		dst := netip.AddrFrom4([4]byte(quoted[12:])).String()
		return frame(eth(v4), ip4("203.0.113.1", dst, layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 4)}, gopacket.Payload(quoted))
	}
	seen := map[string]bool{}
	for port := range 60 {
		sport := 1000 + port
		for _, vip := range []lb.VIP{web4, log4} {
			// What the backend sent in the VIP's name, as a router quotes it.
			quoted := frame(ip4(vip.Addr.String(), client4, layers.IPProtocolTCP), tcp(int(vip.Port), sport, "A"))
			if vip.Protocol == lb.UDP {
				quoted = frame(ip4(vip.Addr.String(), client4, layers.IPProtocolUDP), udp(int(vip.Port), sport), data(8))
			}
			want := r.backendOf(to(vip, sport, "A"))
			seen[want] = true
			for sentence, f := range map[string][]byte{
				"frag-needed": icmp(3, quoted[:28]), "time exceeded": icmp(11, quoted[:28]),
				"frag-needed with options quoted": icmp(3, withOptions(quoted[:28])),
			} {
				if got := r.backendOf(f); got != want {
					t.Fatalf("%s about a flow of %s from port %d went to %s, the flow to %s", sentence, vip, sport, got, want)
				}
			}
			if _, reason, _ := r.run(icmp(3, quoted[:22])); reason != lb.XDPICMP {
				t.Fatalf("a quote without whole ports left by %s", reason)
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("only %v were asked", seen)
	}
	// One that the ring moved away from keeps the errors of its connections, too.
	want := map[int]string{}
	for port := range 60 {
		want[port] = r.backendOf(to(web4, 1000+port, "S"))
	}
	drained := service(web4, "ipip", b1, b2, b3)
	drained.Backends[0].Takes = false
	r.serve(drained)
	for port := range 60 {
		quoted := frame(ip4("192.0.2.10", client4, layers.IPProtocolTCP), tcp(8443, 1000+port, "A"))[:28]
		if got := r.backendOf(icmp(3, quoted)); got != want[port] {
			t.Fatalf("an error about a connection of %s went to %s when that was drained", want[port], got)
		}
	}
}

// withOptions puts a word of options into a bare IPv4 header.
func withOptions(packet []byte) []byte {
	p := append(bytes.Clone(packet[:20]), append([]byte{1, 1, 1, 1}, packet[20:]...)...)
	p[0] = 0x46
	return p
}
