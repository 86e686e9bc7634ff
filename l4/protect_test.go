package l4

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

func TestSourcesThatAreBlockedOrLimited(t *testing.T) {
	r := newRig(t, edge1)
	from := func(src string, flags string) []byte {
		return frame(eth(v4), ip4(src, "192.0.2.10", layers.IPProtocolTCP), tcp(40000, 80, flags), data(10))
	}
	from6 := func(src string) []byte {
		return frame(eth(v6), ip6(src, "2001:db8::10", layers.IPProtocolTCP), tcp(40000, 80, "A"), data(10))
	}
	s := steering(edge1)
	s.Sources = []lb.SteeredSource{
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Blocked: true},
		{Prefix: netip.MustParsePrefix("198.51.100.7/32"), Exempt: true},
		{Prefix: netip.MustParsePrefix("2001:db8:bad::/48"), Blocked: true},
	}
	r.apply(s)
	for _, c := range []struct {
		sentence string
		frame    []byte
		verdict  uint32
		reason   lb.Reason
	}{
		{"a blocked network", from("198.51.100.8", "A"), drop, lb.XDPBlocked},
		{"the longest prefix counts", from("198.51.100.7", "A"), pass, lb.XDPLocal},
		{"another network", from("203.0.113.1", "A"), pass, lb.XDPLocal},
		{"a blocked IPv6 network", from6("2001:db8:bad::1"), drop, lb.XDPBlocked},
		{"another IPv6 network", from6("2001:db8:900d::1"), pass, lb.XDPLocal},
		{"no VIP: nobody is blocked there", frame(eth(v4), ip4("198.51.100.8", "192.0.2.99", layers.IPProtocolTCP), tcp(1, 80, "S")), pass, lb.XDPNotVIP},
	} {
		if verdict, reason, _ := r.run(c.frame); verdict != c.verdict || reason != c.reason {
			t.Errorf("%s: verdict %d for %s, want %d for %s", c.sentence, verdict, reason, c.verdict, c.reason)
		}
	}

	// The second may turn while it is counted, so a few may pass beyond the limit.
	s.Limits = lb.SourceLimits{Packets: 40, SYNs: 10}
	r.apply(s)
	count := func(n int, f func(i int) []byte) map[lb.Reason]int {
		seen := map[lb.Reason]int{}
		for i := range n {
			_, reason, _ := r.run(f(i))
			seen[reason]++
		}
		return seen
	}
	syns := count(35, func(int) []byte { return from("203.0.113.2", "S") })
	if syns[lb.XDPLocal] < 10 || syns[lb.XDPLocal] > 20 || syns[lb.XDPSynLimited] < 10 {
		t.Errorf("10 SYNs a second: %v", syns)
	}
	packets := count(100, func(int) []byte { return from("203.0.113.3", "A") })
	if packets[lb.XDPLocal] < 40 || packets[lb.XDPLocal] > 80 || packets[lb.XDPRateLimited] < 20 {
		t.Errorf("40 packets a second: %v", packets)
	}
	wide := count(100, func(i int) []byte { return from6(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}).String()) })
	if wide[lb.XDPRateLimited] < 20 {
		t.Errorf("addresses of one IPv6 /64 count together: %v", wide)
	}
	exempt := count(100, func(int) []byte { return from("198.51.100.7", "S") })
	if exempt[lb.XDPLocal] != 100 {
		t.Errorf("no limit holds for who is allowed: %v", exempt)
	}
	if many := count(60, func(i int) []byte { return from(netip.AddrFrom4([4]byte{203, 0, 114, byte(i)}).String(), "S") }); many[lb.XDPLocal] != 60 {
		t.Errorf("others have limits of their own: %v", many)
	}
	r.apply(steering(edge1))
	if _, reason, _ := r.run(from("198.51.100.8", "A")); reason != lb.XDPLocal {
		t.Errorf("without a rule: %s", reason)
	}
}

func TestWhoeverSendsTooMuchForTheEncapsulationIsTold(t *testing.T) {
	r := newRig(t, edge1)
	long := func(vip lb.VIP) []byte {
		if vip.Addr.Is6() {
			return frame(eth(v6), ip6(client6, vip.Addr.String(), layers.IPProtocolTCP), tcp(40000, int(vip.Port), "A"), data(1450))
		}
		return frame(eth(v4), ip4(client4, vip.Addr.String(), layers.IPProtocolTCP), tcp(40000, int(vip.Port), "A"), data(1450))
	}
	tagged := func(f []byte) []byte {
		out := frame(eth(layers.EthernetTypeDot1Q), vlan(5, layers.EthernetType(binary.BigEndian.Uint16(f[12:]))), data(0))
		return append(out[:18], f[14:]...)
	}
	services := func(vip lb.VIP, forward string) lb.Steering {
		s := steering(edge1, only(edge2))
		s.Services = []lb.SteeredService{service(vip, forward, b1)}
		return s
	}
	for _, c := range []struct {
		sentence string
		steering lb.Steering
		frame    []byte
		l3       int
		mtu      int
	}{
		{"IPv4 by ipip", services(web4, "ipip"), long(web4), 14, 1480},
		{"IPv4 by gue", services(web4, "gue"), long(web4), 14, 1468},
		{"IPv6 by ipip", services(web6, "ipip"), long(web6), 14, 1480},
		{"IPv4 to another node", services(web4, "ipip"), long(vip4), 14, 1500 - 48},
		{"IPv6 to another node", services(web4, "ipip"), long(vip6), 14, 1500 - 48},
		{"a tag goes back from another node's, too", services(web4, "ipip"), tagged(long(vip6)), 18, 1500 - 48},
		{"a tag goes back, too", services(web4, "gue"), tagged(long(web4)), 18, 1468},
	} {
		r.apply(c.steering).reachAll(func(b *bpf.Backend) { b.MTU = 1500 })
		r.ways(func(p *bpf.Peer) { p.MTU = 1500 })
		verdict, reason, out := r.run(c.frame)
		if verdict != redirect || reason != lb.XDPTold {
			t.Errorf("%s: verdict %d for %s", c.sentence, verdict, reason)
			continue
		}
		checkTold(t, c.sentence, c.frame, out, c.l3, c.mtu)
	}
	quoted := frame(ip4("192.0.2.10", client4, layers.IPProtocolTCP), tcp(80, 40000, "A"), data(1400))
	err := frame(eth(v4), ip4("203.0.113.1", "192.0.2.10", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)}, gopacket.Payload(quoted))
	if verdict, reason, _ := r.run(err); verdict != drop || reason != lb.XDPTooBig {
		t.Errorf("an ICMP error that is too big: verdict %d for %s, but nobody is told of those", verdict, reason)
	}
	told := 0
	for range 2000 {
		if _, reason, _ := r.run(long(web4)); reason == lb.XDPTold {
			told++
		} else if reason != lb.XDPTooBig {
			t.Fatalf("dropped for %s", reason)
		}
	}
	if told == 0 {
		t.Error("nobody was told")
	}
}

// checkTold checks the answer byte by byte, checksums included.
func checkTold(t *testing.T, sentence string, sent, got []byte, l3, mtu int) {
	t.Helper()
	if string(got[:6]) != string(sent[6:12]) || string(got[6:12]) != string(sent[:6]) || string(got[12:l3]) != string(sent[12:l3]) {
		t.Errorf("%s: frame header % x of % x", sentence, got[:l3], sent[:l3])
	}
	p := gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.Default)
	if ip, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ip != nil {
		icmp := got[l3+20:]
		quoted := sent[l3 : l3+64]
		if headerSum(got[l3:l3+20]) != 0 || headerSum(icmp) != 0 || int(ip.Length) != len(got)-l3 ||
			string(got[l3+12:l3+16]) != string(sent[l3+16:l3+20]) || string(got[l3+16:l3+20]) != string(sent[l3+12:l3+16]) {
			t.Errorf("%s: IP header % x, ICMP % x", sentence, got[l3:l3+20], icmp[:8])
		}
		if icmp[0] != 3 || icmp[1] != 4 || int(binary.BigEndian.Uint16(icmp[6:])) != mtu || string(icmp[8:]) != string(quoted) {
			t.Errorf("%s: ICMP % x, want frag-needed with an MTU of %d", sentence, icmp, mtu)
		}
		return
	}
	icmp := got[l3+40:]
	quoted := sent[l3 : l3+128]
	pseudo := append(append([]byte{}, got[l3+8:l3+40]...), 0, 0, 0, byte(len(icmp)), 0, 0, 0, 58)
	if headerSum(append(pseudo, icmp...)) != 0 || string(got[l3+8:l3+24]) != string(sent[l3+24:l3+40]) || string(got[l3+24:l3+40]) != string(sent[l3+8:l3+24]) {
		t.Errorf("%s: IP header % x, ICMP % x", sentence, got[l3:l3+40], icmp[:8])
	}
	if icmp[0] != 2 || icmp[1] != 0 || int(binary.BigEndian.Uint32(icmp[4:])) != mtu || string(icmp[8:]) != string(quoted) {
		t.Errorf("%s: ICMP % x, want packet-too-big with an MTU of %d", sentence, icmp, mtu)
	}
}
