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

// ways finds out, as the kernel would, how frames get to peers and backends. It
// reads interfaces and neighbours once, for all of them.
type ways struct {
	network    *netlink.Handle
	links      map[int]netlink.Link
	neighbours map[neighbourKey]netlink.Neigh
}

type neighbourKey struct {
	iface int
	ip    netip.Addr
}

func newWays(network *netlink.Handle) (*ways, error) {
	w := &ways{network, map[int]netlink.Link{}, map[neighbourKey]netlink.Neigh{}}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := network.NeighList(0, family)
		if err != nil {
			return nil, fmt.Errorf("list the neighbours: %w", err)
		}
		for _, n := range list {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				w.neighbours[neighbourKey{n.LinkIndex, a.Unmap()}] = n
			}
		}
	}
	return w, nil
}

// A way is where the kernel would send a packet.
type way struct {
	link   netlink.Link
	next   netip.Addr // whose MAC address its frame gets
	source netip.Addr
	mtu    uint16
	here   bool // to this host itself
}

// to says of a peer or a backend what the kernel knows without asking anybody.
func (w *ways) to(who string, address netip.Addr) (found way, err error) {
	routes, err := w.network.RouteGet(address.AsSlice())
	if err != nil || len(routes) == 0 {
		return found, fmt.Errorf("route to %s %s: %w", who, address, err)
	}
	route := routes[0]
	if found.link, err = w.link(route.LinkIndex); err != nil {
		return found, fmt.Errorf("interface to %s %s: %w", who, address, err)
	}
	found.mtu = uint16(min(maxMTU, found.link.Attrs().MTU))
	if route.MTU > 0 {
		found.mtu = uint16(min(int(found.mtu), route.MTU))
	}
	found.next, found.here = nextHop(route, address), route.Type == unix.RTN_LOCAL
	if source, ok := netip.AddrFromSlice(route.Src); ok {
		found.source = source.Unmap()
	}
	return found, nil
}

// nextHop is the gateway, which may have the other IP version (RFC 5549), or who
// is meant.
func nextHop(route netlink.Route, address netip.Addr) netip.Addr {
	if gateway, ok := netip.AddrFromSlice(route.Gw); ok {
		return gateway.Unmap()
	}
	if via, is := route.Via.(*netlink.Via); is {
		if gateway, ok := netip.AddrFromSlice(via.Addr); ok {
			return gateway.Unmap()
		}
	}
	return address
}

func (w *ways) link(index int) (netlink.Link, error) {
	if l := w.links[index]; l != nil {
		return l, nil
	}
	l, err := w.network.LinkByIndex(index)
	if err == nil {
		w.links[index] = l
	}
	return l, err
}

// peer returns the entry for a peer. An entry that is not valid makes the
// programs ask the kernel; asked is why, for the report.
func (w *ways) peer(address netip.Addr) (p bpf.Peer, asked error) {
	p = bpf.Peer{Address: bpf.AddressOf(address), MTU: maxMTU}
	found, err := w.to("peer", address)
	if err != nil {
		return p, err
	}
	iface := found.link
	p.Ifindex, p.MTU = uint32(iface.Attrs().Index), found.mtu
	device, tag, err := w.under(iface)
	if err != nil {
		return p, fmt.Errorf("interface to peer %s: %w", address, err)
	}
	if !redirectable(device) {
		p.Flags = bpf.PeerByKernel
		return p, fmt.Errorf("peer %s is behind %s, a %s: %w", address, iface.Attrs().Name, iface.Type(), errByKernel)
	}
	mac, err := w.neighbour(iface.Attrs().Index, found.next)
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

// backend writes the way into b, as peer does.
func (w *ways) backend(b *bpf.Backend) (asked error) {
	address := b.Address.Addr()
	b.Source, b.ValidUntil, b.Ifindex, b.MTU, b.MACs = bpf.Address{}, 0, 0, maxMTU, [2][6]byte{}
	b.Flags &= bpf.BackendKeeps
	found, err := w.to("backend", address)
	if err != nil {
		return err
	}
	if found.source.IsValid() {
		b.Source = bpf.AddressOf(found.source)
	}
	if found.here {
		b.Flags |= bpf.BackendHere
		return nil
	}
	link := found.link.Attrs()
	b.Ifindex, b.MTU = uint32(link.Index), found.mtu
	if !redirectable(found.link) {
		b.Flags |= bpf.BackendByKernel
		return fmt.Errorf("backend %s is behind %s, a %s: %w", address, link.Name, found.link.Type(), errByKernel)
	}
	mac, err := w.neighbour(link.Index, found.next)
	if err != nil {
		return fmt.Errorf("MAC address of backend %s: %w", address, err)
	}
	copy(b.MACs[0][:], mac)
	copy(b.MACs[1][:], link.HardwareAddr)
	if found.link.Type() != "veth" {
		b.Flags |= bpf.BackendBounce
	}
	b.ValidUntil = monotonic() + uint64(wayHolds)
	return nil
}

// under returns the device that a VLAN's frames leave by, and their tag. Only
// one tag is pushed: a VLAN on a VLAN is sent to by the kernel.
func (w *ways) under(iface netlink.Link) (netlink.Link, [2]byte, error) {
	v, is := iface.(*netlink.Vlan)
	if !is || v.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q {
		return iface, [2]byte{}, nil
	}
	parent, err := w.link(v.ParentIndex)
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
func (w *ways) neighbour(iface int, next netip.Addr) (net.HardwareAddr, error) {
	n, known := w.neighbours[neighbourKey{iface, next}]
	if !known || n.State&reachability == 0 || len(n.HardwareAddr) != 6 {
		w.ask(iface, next)
		return nil, fmt.Errorf("%s is not resolved yet", next)
	}
	if n.State&(unix.NUD_REACHABLE|unix.NUD_PERMANENT) == 0 {
		w.ask(iface, next)
	}
	return n.HardwareAddr, nil
}

// ask has the kernel resolve or confirm a neighbour, as if it had a packet.
func (w *ways) ask(iface int, next netip.Addr) {
	family := netlink.FAMILY_V4
	if next.Is6() {
		family = netlink.FAMILY_V6
	}
	// An error shows in the next refresh: the neighbour is still unknown.
	_ = w.network.NeighSet(&netlink.Neigh{LinkIndex: iface, Family: family, IP: next.AsSlice(), Flags: netlink.NTF_USE})
}
