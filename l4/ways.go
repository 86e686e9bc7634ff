package l4

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bpf"
)

const (
	wayHolds     = 30 * time.Second // how long the programs trust a way they were given
	wayRefresh   = 5 * time.Second
	wayRetry     = 100 * time.Millisecond // while a new peer's MAC address is not known
	wayRetries   = 20                     // then wait for the next refresh
	maxMTU       = 65535
	reachability = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
)

// errByKernel is no trouble: there is no better way.
var errByKernel = errors.New("XDP cannot send there, so the kernel does, slower")

// ways finds out, as the kernel would, how frames get to peers: interface, MAC
// addresses, MTU.
type ways struct {
	network *netlink.Handle
}

// find returns the entry for a peer. An entry that is not valid makes the
// programs ask the kernel; asked is why, for the report.
func (w ways) find(address netip.Addr) (p bpf.Peer, asked error) {
	p = bpf.Peer{Address: bpf.AddressOf(address), MTU: maxMTU}
	routes, err := w.network.RouteGet(address.AsSlice())
	if err != nil || len(routes) == 0 {
		return p, fmt.Errorf("route to peer %s: %w", address, err)
	}
	route := routes[0]
	iface, err := w.network.LinkByIndex(route.LinkIndex)
	if err != nil {
		return p, fmt.Errorf("interface to peer %s: %w", address, err)
	}
	p.Ifindex = uint32(route.LinkIndex)
	p.MTU = uint16(min(maxMTU, iface.Attrs().MTU))
	if route.MTU > 0 {
		p.MTU = uint16(min(int(p.MTU), route.MTU))
	}
	next := route.Gw
	if next == nil {
		next = address.AsSlice()
	}
	device, tag, err := w.under(iface)
	if err != nil {
		return p, fmt.Errorf("interface to peer %s: %w", address, err)
	}
	if !redirectable(device) {
		p.Flags = bpf.PeerByKernel
		return p, fmt.Errorf("peer %s is behind %s, a %s: %w", address, iface.Attrs().Name, iface.Type(), errByKernel)
	}
	mac, err := w.neighbour(route.LinkIndex, next)
	if err != nil {
		if device != iface {
			p.Flags = bpf.PeerByKernel // it adds the tag itself
		}
		return p, fmt.Errorf("MAC address of peer %s: %w", address, err)
	}
	copy(p.MACs[0][:], mac)
	copy(p.MACs[1][:], iface.Attrs().HardwareAddr)
	p.Ifindex, p.VLAN = uint32(device.Attrs().Index), tag
	if device.Type() != "veth" {
		p.Flags |= bpf.PeerBounce // a veth takes no XDP_TX unless its peer has XDP, too
	}
	p.ValidUntil = monotonic() + uint64(wayHolds)
	return p, nil
}

// under returns the device that a VLAN's frames leave by, and their tag. Only
// one tag is pushed: a VLAN on a VLAN is sent to by the kernel.
func (w ways) under(iface netlink.Link) (netlink.Link, [2]byte, error) {
	v, is := iface.(*netlink.Vlan)
	if !is || v.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q {
		return iface, [2]byte{}, nil
	}
	parent, err := w.network.LinkByIndex(v.ParentIndex)
	if err != nil || !redirectable(parent) {
		return iface, [2]byte{}, err
	}
	return parent, [2]byte{byte(v.VlanId >> 8), byte(v.VlanId)}, nil
}

// redirectable: hardware and veth; all else has its own way of sending.
func redirectable(l netlink.Link) bool {
	return len(l.Attrs().HardwareAddr) == 6 && (l.Type() == "device" || l.Type() == "veth")
}

// neighbour returns the MAC address of next, and has the kernel confirm it.
func (w ways) neighbour(iface int, next net.IP) (net.HardwareAddr, error) {
	list, err := w.network.NeighList(iface, familyOf(next))
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if n.IP.Equal(next) && n.State&reachability != 0 && len(n.HardwareAddr) == 6 {
			if n.State&(unix.NUD_REACHABLE|unix.NUD_PERMANENT) == 0 {
				w.ask(iface, next)
			}
			return n.HardwareAddr, nil
		}
	}
	w.ask(iface, next)
	return nil, fmt.Errorf("%s is not resolved yet", next)
}

func familyOf(ip net.IP) int {
	if ip.To4() != nil {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// ask has the kernel resolve or confirm a neighbour, as if it had a packet.
func (w ways) ask(iface int, next net.IP) {
	// An error shows in the next refresh: the neighbour is still unknown.
	_ = w.network.NeighSet(&netlink.Neigh{
		LinkIndex: iface, Family: familyOf(next), IP: next, Flags: netlink.NTF_USE,
	})
}
