package l4_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

// narrow has the router take longer packets to a node for too big.
func (s *site) narrow(n *node, mtu int) {
	s.check(s.router.Do(func() error {
		l, err := netlink.LinkByName(n.member.Name)
		if err != nil {
			return err
		}
		node := n.member.Address
		to := &net.IPNet{IP: node.AsSlice(), Mask: net.CIDRMask(node.BitLen(), node.BitLen())}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: to, MTU: mtu, MTULock: true, Scope: unix.RT_SCOPE_LINK})
	}))
}

// A router of the fabric has less room than the nodes' own links: its answers
// come to the node, and the clients are told.
func TestANarrowFabricIsLearntAndClientsAreTold(t *testing.T) {
	t.Run("over IPv4", func(t *testing.T) {
		s := newSite(t, 2)
		s.arriveAt(s.nodes[0])
		isLearntAndTold(s)
	})
	t.Run("over IPv6", func(t *testing.T) {
		s := newSite(t, 2)
		s.arriveAt(s.nodes[0])
		s.overIPv6()
		isLearntAndTold(s)
	})
}

func isLearntAndTold(s *site) {
	ingress, owner := s.nodes[0], s.nodes[1]
	s.narrow(owner, 1450)
	s.steer(s.only(owner))
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		c := s.dial(vip)
		if c.node != "edge-2" {
			s.t.Errorf("%s was answered by %s", vip, c.node)
		}
		c.echo()
	}
	if ingress.count(lb.XDPLearned) == 0 || ingress.count(lb.XDPTold) == 0 {
		s.t.Errorf("edge-1 heard of it %d times, and told clients %d times", ingress.count(lb.XDPLearned), ingress.count(lb.XDPTold))
	}
	l4.RefreshWays(ingress.datapath)
	if notes := ingress.datapath.Report().Notes; len(notes) != 1 || !strings.Contains(notes[0], "packets of 1450 bytes at most") {
		s.t.Errorf("the report says %q", notes)
	}
	told := ingress.count(lb.XDPTold)
	s.dial(vip4).echo() // the client's host remembers
	if n := ingress.count(lb.XDPTold); n != told {
		s.t.Errorf("the client was told %d times more", n-told)
	}
}

// A connection's packets come to its owner by way of another node, and the way
// from there is narrow: the hop hears of it from the router, the node where they
// arrive from the hop, and the client from that one.
func TestANarrowWayBehindAHopIsToldBack(t *testing.T) {
	s := newSite(t, 3)
	ingress, hop, owner := s.nodes[0], s.nodes[1], s.nodes[2]
	s.arriveAt(ingress)
	s.steer(s.only(owner))
	old := s.dial(vip4)
	s.steer(s.only(hop), s.only(owner))
	old.echo()
	s.narrow(owner, 1450)
	old.echo()
	if hop.count(lb.XDPLearned) == 0 || hop.count(lb.XDPTold) == 0 || ingress.count(lb.XDPLearned) == 0 || ingress.count(lb.XDPTold) == 0 {
		t.Errorf("the hop heard of it %d times and told %d times, the ingress %d and %d", hop.count(lb.XDPLearned), hop.count(lb.XDPTold), ingress.count(lb.XDPLearned), ingress.count(lb.XDPTold))
	}
	told := ingress.count(lb.XDPTold)
	old.echo()
	if n := ingress.count(lb.XDPTold); n != told {
		t.Errorf("the client was told %d times more", n-told)
	}
}
