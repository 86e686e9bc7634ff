// Package l4test builds networks of namespaces joined by veth pairs, for tests
// and for the lab.
//
// Every veth is set up so that XDP may redirect frames over it: GRO is on,
// which makes a veth take redirected frames, and transmit checksums are off,
// because native XDP loses checksums that are left for hardware to fill in.
//
// Building needs root. Start at New; Close removes everything.
package l4test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is a set of namespaces. It is not safe for concurrent use.
type Network struct {
	prefix     string
	namespaces []*Namespace
	mounts     []string
}

// New begins an empty network whose namespaces are named prefix-name.
func New(prefix string) *Network { return &Network{prefix: prefix} }

// Namespace is one host of the network; also visible to ip netns.
type Namespace struct {
	Name string // with the prefix
	fd   netns.NsHandle
}

// Namespace makes a namespace with lo up.
func (n *Network) Namespace(name string) (*Namespace, error) {
	ns := &Namespace{Name: n.prefix + "-" + name}
	err := inThread(func() (err error) {
		ns.fd, err = netns.NewNamed(ns.Name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", ns.Name, err)
	}
	n.namespaces = append(n.namespaces, ns)
	return ns, ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// inThread runs f on an OS thread of its own, which ends with it: whatever
// namespace f enters stays there.
func inThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		done <- f()
	}()
	return <-done
}

// Do runs f in the namespace. Goroutines that f starts are not in it; sockets
// that f opens are.
func (ns *Namespace) Do(f func() error) error {
	return inThread(func() error {
		if err := netns.Set(ns.fd); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.Name, err)
		}
		return f()
	})
}

// Command prepares a program that runs in the namespace. Unlike ip netns exec
// it keeps /sys, and with it the pins in /sys/fs/bpf.
func (ns *Namespace) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + ns.Name, name}, args...)...)
}

// Sysctl sets net.ipv4.ip_forward and the like.
func (ns *Namespace) Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	return ns.Do(func() error { return os.WriteFile(path, []byte(value), 0o644) })
}

// End is one side of a veth pair.
type End struct {
	In      *Namespace
	Name    string // of the interface, for instance eth0
	Address []netip.Prefix
}

// Connect joins two namespaces by a veth pair.
func (n *Network) Connect(a, b End, mtu int) error {
	err := a.In.Do(func() error {
		pair := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: a.Name, MTU: mtu, TxQLen: -1},
			PeerName:      b.Name,
			PeerNamespace: netlink.NsFd(b.In.fd),
			PeerMTU:       uint32(mtu),
		}
		return netlink.LinkAdd(pair)
	})
	if err != nil {
		return fmt.Errorf("join %s %s and %s %s: %w", a.In.Name, a.Name, b.In.Name, b.Name, err)
	}
	// A veth takes redirected frames if its peer had GRO when it came up.
	return errors.Join(a.prepare(), b.prepare(), a.up(), b.up())
}

func (e End) prepare() error { return e.In.Do(func() error { return offloads(e.Name) }) }

func (e End) up() error {
	return e.In.Do(func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		for _, p := range e.Address {
			address := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrAdd(l, address); err != nil {
				return fmt.Errorf("give %s the address %s: %w", e.Name, p, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// Route sends packets for dst to one or, by equal-cost multipath, to several
// next hops, in place of what was there.
func (ns *Namespace) Route(dst netip.Prefix, via ...netip.Addr) error {
	r := &netlink.Route{Dst: ipNet(dst)}
	if len(via) == 1 {
		r.Gw = via[0].AsSlice()
	} else {
		for _, hop := range via {
			r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{Gw: hop.AsSlice()})
		}
	}
	err := ns.Do(func() error { return netlink.RouteReplace(r) })
	if err != nil {
		return fmt.Errorf("route %s via %v in %s: %w", dst, via, ns.Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// routerSettings make a namespace forward, and choose among equal next hops by
// the five-tuple itself: policy 1 believes the sender's hash, which changes
// with every retransmission timeout.
var routerSettings = [][2]string{
	{"net.ipv4.ip_forward", "1"},
	{"net.ipv6.conf.all.forwarding", "1"},
	{"net.ipv4.fib_multipath_hash_policy", "3"},
	{"net.ipv4.fib_multipath_hash_fields", "55"}, // 0x37: addresses, protocol, ports
	{"net.ipv6.fib_multipath_hash_policy", "3"},
	{"net.ipv6.fib_multipath_hash_fields", "55"},
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.ipv4.conf.default.rp_filter", "0"},
}

// Router makes the namespace a router.
func (ns *Namespace) Router() error {
	for _, s := range routerSettings {
		if err := ns.Sysctl(s[0], s[1]); err != nil {
			return fmt.Errorf("make %s a router: %w", ns.Name, err)
		}
	}
	return nil
}

// BPFFS mounts a bpffs for pins on dir.
func (n *Network) BPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", dir, err)
	}
	n.mounts = append(n.mounts, dir)
	return nil
}

// Close removes the namespaces, and with them their interfaces, and the mounts.
func (n *Network) Close() error {
	var errs []error
	for _, dir := range n.mounts {
		errs = append(errs, unix.Unmount(dir, unix.MNT_DETACH))
	}
	for _, ns := range n.namespaces {
		errs = append(errs, ns.fd.Close(), netns.DeleteNamed(ns.Name))
	}
	n.namespaces, n.mounts = nil, nil
	return errors.Join(errs...)
}
