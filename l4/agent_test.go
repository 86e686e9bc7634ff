package l4

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/cirque-lb/lb"
)

// unwrapped runs a frame through the program of a backend.
func (r *rig) unwrapped(frame []byte) (uint32, lb.Reason, []byte) {
	r.t.Helper()
	steer := r.SteerPacket
	r.SteerPacket = r.UnwrapPacket
	defer func() { r.SteerPacket = steer }()
	return r.run(frame)
}

func TestABackendTakesPacketsOut(t *testing.T) {
	node, r := newRig(t, edge1), newRig(t, edge2)
	trusted := services()
	trusted.Sources = []lb.SteeredSource{
		{Prefix: netip.PrefixFrom(src4, 24), Trusted: true}, {Prefix: netip.PrefixFrom(src6, 64), Trusted: true},
		{Prefix: netip.MustParsePrefix("10.0.0.128/25")},
	}
	trusted.VIPs = []lb.VIP{{Addr: web4.Addr, Protocol: lb.TCP}, {Addr: web6.Addr, Protocol: lb.TCP}}
	r.apply(trusted)
	for _, forward := range []string{"ipip", "gue"} {
		for _, vip := range []lb.VIP{web4, web6} {
			for _, b := range []string{b1, s1} {
				f := to(vip, 40000, "S")
				_, _, sent := node.serve(service(vip, forward, b)).run(f)
				verdict, reason, out := r.unwrapped(sent)
				if verdict != pass || reason != lb.XDPUnwrapped || !bytes.Equal(out[14:], aged(f[14:])) || !bytes.Equal(out[:14], append(macs2(), f[12:14]...)) {
					t.Errorf("%s by %s to %s: verdict %d for %s:\n% x, want\n% x", vip, forward, b, verdict, reason, out, aged(f[14:]))
				}
			}
		}
	}
	_, _, sent := node.serve(service(web4, "gue", b1)).run(to(web4, 1, "S"))
	_, _, inside := node.serve(service(web4, "ipip", b1)).run(to(web4, 1, "S"))
	stranger := edit(bytes.Clone(sent), 14+15, 200)
	for _, c := range []struct {
		sentence string
		frame    []byte
		verdict  uint32
		reason   lb.Reason
	}{
		{"from a network that is not trusted", edit(bytes.Clone(sent), 14+12, 11), drop, lb.XDPStranger},
		{"from a part of the network that is not trusted", stranger, drop, lb.XDPStranger},
		{"not encapsulated", to(web4, 1, "S"), pass, lb.XDPNotVIP},
		{"for another VIP", edit(bytes.Clone(inside), 34+19, 99), pass, lb.XDPNotVIP},
		{"to another port", edit(bytes.Clone(sent), 14+20+3, 1), pass, lb.XDPNotVIP},
		{"a node's own encapsulation", edit(bytes.Clone(sent), 14+20+8, 2), pass, lb.XDPNotVIP},
		{"a fragment", edit(bytes.Clone(sent), 14+6, 0x20), pass, lb.XDPNotVIP},
		{"inside of another", frame(eth(v4), ip4("10.0.0.1", b1, layers.IPProtocolIPv4), ip4("10.0.0.1", b1, layers.IPProtocolIPv4), ip4(client4, "192.0.2.10", layers.IPProtocolTCP), tcp(1, 80, "S")), pass, lb.XDPNotVIP},
		{"cut short", cut(bytes.Clone(inside), 14+20+19), pass, lb.XDPNotVIP},
		{"GRE", edit(bytes.Clone(inside), 14+9, 47), pass, lb.XDPNotVIP},
	} {
		verdict, reason, out := r.unwrapped(c.frame)
		if verdict != c.verdict || reason != c.reason || !bytes.Equal(out, c.frame) {
			t.Errorf("%s: verdict %d for %s, want %d for %s, unchanged", c.sentence, verdict, reason, c.verdict, c.reason)
		}
	}
}
