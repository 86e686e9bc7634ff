package l4

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// Addresses of IPv6 whose third word is that of a mapped IPv4 address.
var (
	odd6       = lb.VIP{Addr: netip.MustParseAddr("2001:db8::ffff:a00:1"), Port: 80, Protocol: lb.TCP}
	oddService = lb.VIP{Addr: netip.MustParseAddr("2001:db8::ffff:a00:2"), Port: 8443, Protocol: lb.TCP}
)

const oddBackend = "fd00:1::ffff:a01:1"

func TestAnAddressThatLooksMappedIsOfIPv6(t *testing.T) {
	steer := func(self lb.Member) lb.Steering {
		s := steering(self, only(idle(edge1), edge2))
		s.VIPs = append(s.VIPs, odd6)
		return s
	}
	f := to(odd6, 40000, "S")
	ingress, owner := newRig(t, edge1).apply(steer(edge1)), newRig(t, edge2).apply(steer(edge2))
	verdict, reason, sent := ingress.run(f)
	if verdict != redirect || reason != lb.XDPSent {
		t.Fatalf("to another node: verdict %d for %s", verdict, reason)
	}
	if o := readOuter(t, sent); !bytes.Equal(o.inner, aged(f[14:])) {
		t.Errorf("inside is\n% x, want\n% x", o.inner, aged(f[14:]))
	}
	if verdict, reason, out := owner.run(sent); verdict != pass || reason != lb.XDPReceived || !bytes.Equal(out[14:], aged(f[14:])) || out[12] != 0x86 {
		t.Errorf("the owner: verdict %d for %s, out % x", verdict, reason, out)
	}
	ingress.ways(func(p *bpf.Peer) { p.MTU = 1400 })
	long := frame(eth(v6), ip6(client6, odd6.Addr.String(), layers.IPProtocolTCP), tcp(40000, 80, "A"), data(1400))
	verdict, reason, out := ingress.run(long)
	if verdict != redirect || reason != lb.XDPTold {
		t.Fatalf("too long: verdict %d for %s", verdict, reason)
	}
	checkTold(t, "too long", long, out, 14, 1400-48)
}

func TestAServiceWithAddressesThatLookMapped(t *testing.T) {
	node, agent := newRig(t, edge1), newRig(t, edge2)
	trusted := services()
	trusted.Sources = []lb.SteeredSource{{Prefix: netip.PrefixFrom(src6, 64), Trusted: true}, {Prefix: netip.PrefixFrom(src4, 24), Trusted: true}}
	trusted.VIPs = []lb.VIP{{Addr: oddService.Addr, Protocol: lb.TCP}, {Addr: web4.Addr, Protocol: lb.TCP}}
	agent.apply(trusted)
	for _, forward := range []string{"ipip", "gue"} {
		for _, vip := range []lb.VIP{oddService, web4} {
			for _, b := range []string{oddBackend, b1} {
				f := to(vip, 40000, "S")
				_, reason, sent := node.serve(service(vip, forward, b)).run(f)
				if reason != lb.XDPServed {
					t.Fatalf("%s by %s to %s: %s", vip, forward, b, reason)
				}
				if at, inner := unwrap(t, forward, sent); at.String() != b || !bytes.Equal(inner, aged(f[14:])) {
					t.Errorf("%s by %s to %s: to %s\n% x, want\n% x", vip, forward, b, at, inner, aged(f[14:]))
				}
				if verdict, reason, out := agent.unwrapped(sent); verdict != pass || reason != lb.XDPUnwrapped || !bytes.Equal(out[12:], append(bytes.Clone(f[12:14]), aged(f[14:])...)) {
					t.Errorf("%s by %s to %s: the agent: verdict %d for %s:\n% x", vip, forward, b, verdict, reason, out)
				}
			}
		}
	}
}

// The stack never takes a packet of IPv6 for an address of IPv4, so neither do we.
func TestAMappedAddressIsNobodysOnTheWire(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(edge2)))
	for sentence, f := range map[string][]byte{
		"the VIP":      frame(eth(v6), ip6(client6, "2001:db8::10", layers.IPProtocolTCP), tcp(40000, 80, "S"), data(10)),
		"this node":    frame(eth(v6), ip6(client6, "2001:db8::10", layers.IPProtocolUDP), udp(1, bpf.TunnelPort), data(60)),
		"of something": frame(eth(v6), ip6(client6, "2001:db8::10", layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, data(60)),
	} {
		a := netip.MustParseAddr("::ffff:192.0.2.10").As16()
		if sentence != "the VIP" {
			a = edge1.Address.As16()
		}
		copy(f[14+24:], a[:])
		if verdict, reason, out := r.run(f); verdict != pass || reason != lb.XDPNotVIP || !bytes.Equal(out, f) {
			t.Errorf("%s: verdict %d for %s, want pass, unchanged", sentence, verdict, reason)
		}
	}
}

// An IPv4 address may be the end of a node's IPv6 one.
func TestATunnelOfTheOtherIPVersionIsNotOurs(t *testing.T) {
	self := six1
	self.Address = netip.MustParseAddr("fd00::10.0.0.1")
	r := newRig(t, self).apply(steering(self, only(six2)))
	f := frame(eth(v4), ip4("10.0.0.2", "10.0.0.1", layers.IPProtocolUDP), udp(1, bpf.TunnelPort), data(60))
	if verdict, reason, out := r.run(f); verdict != pass || reason != lb.XDPNotVIP || !bytes.Equal(out, f) {
		t.Errorf("verdict %d for %s, want pass, unchanged", verdict, reason)
	}
}
