package l4_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

func TestTheNextDaemonAdoptsWhatIsPinned(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.arriveAt(a)
	s.steer(s.only(b), s.only(a))
	c := s.dial(vip4)
	boot, program := a.datapath.Boot(), attached(a)

	s.check(a.datapath.Close())
	c.echo() // nobody is there, packets go on
	if n := s.dial(vip4); n.node != "edge-2" {
		t.Errorf("without a daemon a new connection went to %s", n.node)
	}

	a.open()
	if r := a.datapath.Report(); !r.Adopted || r.Mode() != lb.FastpathNative || !r.Sockets.Steered {
		t.Errorf("after the restart: %+v", r)
	}
	if a.datapath.Boot() != boot {
		t.Error("the restart made a new boot id")
	}
	a.apply()
	if n := l4.Writes(a.datapath); n != 0 {
		t.Errorf("the saved steering took %d writes after the restart", n)
	}
	if now := attached(a); now != program {
		t.Errorf("program %d was replaced by %d, which is the same", program, now)
	}
	c.echo()
	if a.count(lb.XDPSent) == 0 {
		t.Error("the counters began anew")
	}
}

// attached is the id of the XDP program on a node's eth0.
func attached(n *node) (id uint32) {
	n.site.check(n.ns.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil && l.Attrs().Xdp != nil {
			id = l.Attrs().Xdp.ProgId
		}
		return err
	}))
	return id
}

func TestApplyTwiceWritesOnce(t *testing.T) {
	s := newSite(t, 2)
	s.steer(s.only(s.nodes[1]))
	if l4.Writes(s.nodes[0].datapath) == 0 {
		t.Error("the first Apply wrote nothing")
	}
	s.steer(s.only(s.nodes[1]))
	if n := l4.Writes(s.nodes[0].datapath); n != 0 {
		t.Errorf("the second Apply made %d writes", n)
	}
}

func TestVIPsAreLocalAsLongAsTheyAreSteered(t *testing.T) {
	s := newSite(t, 1)
	n := s.nodes[0]
	ignored := func() string {
		var text []byte
		s.check(n.ns.Do(func() (err error) {
			text, err = os.ReadFile("/proc/sys/net/ipv4/conf/eth0/arp_ignore")
			return err
		}))
		return strings.TrimSpace(string(text))
	}
	local := func() (routes int) {
		s.check(n.ns.Do(func() error {
			list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: 255}, netlink.RT_FILTER_TABLE)
			for _, r := range list {
				if r.Dst != nil && (r.Dst.IP.Equal(vip4.Addr().AsSlice()) || r.Dst.IP.Equal(vip6.Addr().AsSlice())) {
					routes++
				}
			}
			return err
		}))
		return routes
	}
	s.steer()
	if local() != 2 || ignored() != "1" {
		t.Errorf("with VIPs: %d local routes, arp_ignore %s", local(), ignored())
	}
	n.steering.VIPs = nil
	n.apply()
	if local() != 0 || ignored() != "0" {
		t.Errorf("withdrawn: %d local routes, arp_ignore %s", local(), ignored())
	}
	s.steer()
	s.check(n.datapath.Close())
	s.check(n.ns.Do(func() error { return l4.Detach(n.options) }))
	left, _ := filepath.Glob(filepath.Join(n.options.Pins, "*"))
	if local() != 0 || ignored() != "0" || attached(n) != 0 || len(left) != 0 {
		t.Errorf("detached: %d local routes, arp_ignore %s, program %d, pins %v", local(), ignored(), attached(n), left)
	}
	n.open() // for the cleanup, and: it can begin again
	if n.datapath.Report().Adopted {
		t.Error("something was left to adopt")
	}
}

// An agent beside a node, or a second lbd on the host, has VIPs of its own.
func TestTheVIPsOfAnotherLBDStay(t *testing.T) {
	s := newSite(t, 1)
	n := s.nodes[0]
	s.steer()
	routes := func() (all []string) {
		s.check(n.ns.Do(func() error {
			list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: 255, Protocol: 0x4c}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
			for _, r := range list {
				all = append(all, r.Dst.IP.String())
			}
			return err
		}))
		slices.Sort(all)
		return all
	}
	other := l4.Options{Mode: lb.FastpathOff, RunDir: t.TempDir()}
	vips := []lb.VIP{{Addr: vip4.Addr(), Port: 81, Protocol: lb.TCP}, {Addr: netip.MustParseAddr("192.0.2.11"), Port: 81, Protocol: lb.TCP}}
	s.check(n.ns.Do(func() error {
		d, err := l4.Open(other)
		if err != nil {
			return err
		}
		return errors.Join(d.Apply(lb.Steering{VIPs: vips}), d.Close())
	}))
	if got := routes(); !slices.Equal(got, []string{"192.0.2.10", "192.0.2.10", "192.0.2.11", "2001:db8::10"}) {
		t.Errorf("beside the other's the VIPs are %v", got)
	}
	s.check(n.ns.Do(func() error { return l4.Detach(other) }))
	if got := routes(); !slices.Equal(got, []string{"192.0.2.10", "2001:db8::10"}) {
		t.Errorf("after the other went the VIPs are %v", got)
	}
}

// A bond, a VLAN or a driver that is loaded again comes back as another
// interface of that name.
func TestAnInterfaceThatIsMadeAnewIsAttachedAgain(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.arriveAt(a)
	s.steer(s.only(b))
	s.dial(vip4).echo()
	look := func() lb.FastpathMode {
		s.check(a.ns.Do(func() error { l4.AttachAgain(a.datapath); return nil }))
		return a.datapath.Report().Mode()
	}
	s.check(a.ns.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	if mode := look(); mode != lb.FastpathOff {
		t.Errorf("without the interface: %s, %+v", mode, a.datapath.Report())
	}
	s.connect(s.router, "edge-1", a.ns, 1, s.mtu)
	if mode := look(); mode != lb.FastpathNative || attached(a) == 0 {
		t.Errorf("with another of its name: %s, %+v", mode, a.datapath.Report())
	}
	if before := attached(a); look() != lb.FastpathNative || attached(a) != before {
		t.Error("it is attached once more")
	}
	s.arriveAt(a)
	l4.RefreshWays(a.datapath)
	a.awaitWays()
	sent := a.count(lb.XDPSent)
	if c := s.dial(vip4); c.node != "edge-2" || a.count(lb.XDPSent) == sent {
		t.Errorf("answered by %s; %d packets were sent on", c.node, a.count(lb.XDPSent)-sent)
	}
}

func TestTheKernelFindsPeersWithoutAKnownWay(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.arriveAt(a)
	s.steer(s.only(b))
	l4.ForgetWays(a.datapath)
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		c := s.dial(vip)
		c.echo()
		if c.node != "edge-2" {
			t.Errorf("%s was answered by %s", vip, c.node)
		}
	}
	if a.count(lb.XDPUnresolved) == 0 || a.count(lb.XDPSent) > 0 {
		t.Errorf("%d packets went by the kernel, %d by a known way", a.count(lb.XDPUnresolved), a.count(lb.XDPSent))
	}
	if got, sent := b.count(lb.XDPReceived), a.count(lb.XDPUnresolved); got != sent {
		t.Errorf("%d packets were sent, %d received", sent, got)
	}
}

func TestTheReportIsHonest(t *testing.T) {
	s := newSite(t, 1)
	n := s.nodes[0]
	s.check(n.datapath.Close())
	s.check(n.ns.Do(func() error { return l4.Detach(n.options) }))
	open := func(o l4.Options) (r l4.Report, err error) {
		s.check(n.ns.Do(func() error {
			d, openErr := l4.Open(o)
			if err = openErr; err == nil {
				r = d.Report()
				err = d.Close()
			}
			return l4.Detach(o)
		}))
		return r, err
	}
	with := func(mode lb.FastpathMode, required bool, interfaces ...string) l4.Options {
		o := n.options
		o.Mode, o.Required, o.Interfaces = mode, required, interfaces
		return o
	}
	for _, c := range []struct {
		sentence string
		options  l4.Options
		mode     lb.FastpathMode
		why      string
		err      string
	}{
		{"a veth takes native XDP", with(lb.FastpathAuto, true, "eth0"), lb.FastpathNative, "", ""},
		{"lo takes generic XDP only", with(lb.FastpathAuto, true, "lo"), lb.FastpathGeneric, "native: ", ""},
		{"generic was asked for", with(lb.FastpathGeneric, true, "eth0"), lb.FastpathGeneric, "asked for", ""},
		{"native or nothing", with(lb.FastpathNative, false, "lo"), lb.FastpathOff, "native: ", ""},
		{"native or failure", with(lb.FastpathNative, true, "lo"), "", "", "fastpath is required, but not possible on lo: native: "},
		{"an interface that does not exist", with(lb.FastpathAuto, false, "eth9"), lb.FastpathOff, "find the interface", ""},
		{"one of two", with(lb.FastpathAuto, false, "eth0", "eth9"), lb.FastpathOff, "", ""},
		{"off", with(lb.FastpathOff, false, "eth0"), lb.FastpathOff, "fastpath.mode is off", ""},
	} {
		r, err := open(c.options)
		if c.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %s", c.sentence, err, c.err)
			}
			continue
		}
		if err != nil || r.Mode() != c.mode || len(r.Interfaces) != len(c.options.Interfaces) || !strings.Contains(r.Interfaces[0].Why, c.why) {
			t.Errorf("%s: %+v, error %v; want %s because of %q", c.sentence, r, err, c.mode, c.why)
		}
	}
}

func TestAnotherProgramIsNamed(t *testing.T) {
	s := newSite(t, 1)
	n := s.nodes[0]
	s.check(n.datapath.Close())
	s.check(n.ns.Do(func() error { return l4.Detach(n.options) }))
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "firewall", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	s.check(err)
	defer other.Close()
	var l link.Link
	s.check(n.ns.Do(func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: other, Interface: i.Index})
		return err
	}))
	var openErr error
	s.check(n.ns.Do(func() error {
		_, openErr = l4.Open(n.options)
		return nil
	}))
	if want := "another XDP program is attached: firewall (id "; openErr == nil || !strings.Contains(openErr.Error(), want) {
		t.Errorf("error %v, want %s…", openErr, want)
	}
	s.check(l.Close())
	n.open()
	if m := n.datapath.Report().Mode(); m != lb.FastpathNative {
		t.Errorf("after the other program went: %s", m)
	}
}

func TestExplainSaysWhatHappens(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.arriveAt(a)
	s.steer(s.only(b), s.only(a))
	for range 8 {
		c := s.dial(vip4)
		flow := lb.Tuple{Protocol: lb.TCP, Src: netip.MustParseAddrPort(c.LocalAddr().String()), Dst: vip4}
		ea, eb := a.datapath.Explain(flow), b.datapath.Explain(flow)
		if ea.VIP == nil || ea.Row != eb.Row || len(ea.Chain) != 2 || ea.Chain[0].Name != "edge-2" || ea.Chain[1].Name != "edge-1" || ea.Slot != -1 {
			t.Errorf("edge-1: %+v", ea)
		}
		if eb.Slot != c.slot || !eb.Chain[0].Self {
			t.Errorf("edge-2: %+v, but slot %d answered", eb, c.slot)
		}
	}
	e := a.datapath.Explain(lb.Tuple{Protocol: lb.TCP, Src: vip6, Dst: netip.MustParseAddrPort("203.0.113.1:80")})
	if e.VIP != nil || e.Row != -1 || !strings.Contains(e.Why[0], "no VIP") {
		t.Errorf("no VIP: %+v", e)
	}
}
