package l4_test

import (
	"net/netip"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

// overIPv6 gives the nodes IPv6 addresses to send each other packets at.
func (s *site) overIPv6() {
	for _, n := range s.nodes {
		s.check(n.datapath.Close())
		s.check(n.ns.Do(func() error { return l4.Detach(n.options) }))
		n.member.Address = prefix("fd00:%d::2/64", n.index).Addr()
		n.options.Address = n.member.Address
		n.open()
	}
}

func TestAFabricOfIPv6(t *testing.T) {
	s := newSite(t, 2)
	ingress, owner := s.nodes[0], s.nodes[1]
	s.arriveAt(ingress)
	s.overIPv6()
	s.steer(s.only(owner))
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		c := s.dial(vip)
		if c.node != "edge-2" {
			t.Errorf("%s was answered by %s", vip, c.node)
		}
		c.echo()
	}
	s.await("packets are sent and received over IPv6", func() bool {
		return ingress.count(lb.XDPSent) > 8 && owner.count(lb.XDPReceived) > 8
	})
	s.await("the programs answer each other", func() bool {
		return ingress.count(lb.XDPPulse) > 0 && owner.count(lb.XDPPulse) > 0 && len(ingress.datapath.Silent()) == 0
	})
}
