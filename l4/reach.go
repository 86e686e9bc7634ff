package l4

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bpf"
)

// reach finds out, as the kernel would, how frames get to the backends of
// services. It reads interfaces and neighbours once, for all of them.
type reach struct {
	network    *netlink.Handle
	links      map[int]netlink.Link
	neighbours map[neighbourKey]netlink.Neigh
}

type neighbourKey struct {
	iface int
	ip    netip.Addr
}

func newReach(network *netlink.Handle) (*reach, error) {
	r := &reach{network, map[int]netlink.Link{}, map[neighbourKey]netlink.Neigh{}}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := network.NeighList(0, family)
		if err != nil {
			return nil, fmt.Errorf("list the neighbours: %w", err)
		}
		for _, n := range list {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				r.neighbours[neighbourKey{n.LinkIndex, a.Unmap()}] = n
			}
		}
	}
	return r, nil
}

// fill writes the way into b. A way that is not valid makes the programs ask
// the kernel; asked is why, for the report.
func (r *reach) fill(b *bpf.Backend) (asked error) {
	address := b.Address.Addr()
	b.Source, b.ValidUntil, b.Ifindex, b.MTU, b.MACs = bpf.Address{}, 0, 0, maxMTU, [2][6]byte{}
	b.Flags &= bpf.BackendKeeps
	routes, err := r.network.RouteGet(address.AsSlice())
	if err != nil || len(routes) == 0 {
		return fmt.Errorf("route to backend %s: %w", address, err)
	}
	route := routes[0]
	link, err := r.link(route.LinkIndex)
	if err != nil {
		return fmt.Errorf("interface to backend %s: %w", address, err)
	}
	if source, ok := netip.AddrFromSlice(route.Src); ok {
		b.Source = bpf.AddressOf(source.Unmap())
	}
	if route.Type == unix.RTN_LOCAL {
		b.Flags |= bpf.BackendHere
		return nil
	}
	b.Ifindex = uint32(route.LinkIndex)
	b.MTU = uint16(min(maxMTU, link.Attrs().MTU))
	if route.MTU > 0 {
		b.MTU = uint16(min(int(b.MTU), route.MTU))
	}
	if !redirectable(link) {
		b.Flags |= bpf.BackendByKernel
		return fmt.Errorf("backend %s is behind %s, a %s: %w", address, link.Attrs().Name, link.Type(), errByKernel)
	}
	next := address
	if gateway, ok := netip.AddrFromSlice(route.Gw); ok {
		next = gateway.Unmap()
	}
	mac, err := r.neighbour(route.LinkIndex, next)
	if err != nil {
		return fmt.Errorf("MAC address of backend %s: %w", address, err)
	}
	copy(b.MACs[0][:], mac)
	copy(b.MACs[1][:], link.Attrs().HardwareAddr)
	if link.Type() != "veth" {
		b.Flags |= bpf.BackendBounce
	}
	b.ValidUntil = monotonic() + uint64(wayHolds)
	return nil
}

func (r *reach) link(index int) (netlink.Link, error) {
	if l := r.links[index]; l != nil {
		return l, nil
	}
	l, err := r.network.LinkByIndex(index)
	if err == nil {
		r.links[index] = l
	}
	return l, err
}

// neighbour returns the MAC address of next, and has the kernel confirm it.
func (r *reach) neighbour(iface int, next netip.Addr) (net.HardwareAddr, error) {
	n, known := r.neighbours[neighbourKey{iface, next}]
	if !known || n.State&reachability == 0 || len(n.HardwareAddr) != 6 {
		r.ask(iface, next)
		return nil, fmt.Errorf("%s is not resolved yet", next)
	}
	if n.State&(unix.NUD_REACHABLE|unix.NUD_PERMANENT) == 0 {
		r.ask(iface, next)
	}
	return n.HardwareAddr, nil
}

func (r *reach) ask(iface int, next netip.Addr) {
	family := netlink.FAMILY_V4
	if next.Is6() {
		family = netlink.FAMILY_V6
	}
	// An error shows in the next refresh: the neighbour is still unknown.
	_ = r.network.NeighSet(&netlink.Neigh{LinkIndex: iface, Family: family, IP: next.AsSlice(), Flags: netlink.NTF_USE})
}

// refreshBackends renews what the programs know of the ways to backends. A
// backend that is down need not have one.
func (d *Datapath) refreshBackends() {
	if len(d.have.backends) == 0 {
		return
	}
	r, err := newReach(d.network)
	if err != nil {
		d.unknown[err.Error()] = true
		return
	}
	for n, v := range d.have.backends {
		b := d.kernel.loadBackend(n)
		asked := r.fill(&b)
		d.kernel.storeBackend(n, b)
		switch {
		case asked == nil || !v.keeps:
		case errors.Is(asked, errByKernel):
			d.slow[asked.Error()] = true
		default:
			d.unknown[asked.Error()] = true
		}
	}
}
