package l4

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// maxOverhead is what the longest list of hops adds to a packet.
func maxOverhead(node netip.Addr) int {
	if node.Is6() {
		return bpf.Overhead6 + (maxChain-1)*bpf.HopOverhead6
	}
	return bpf.Overhead + (maxChain-1)*bpf.HopOverhead
}

const maxSegment = 32767 // that TCP_MAXSEG takes

// headers of a segment without options, by IP version.
const (
	headers4 = 20 + 20
	headers6 = 40 + 20
)

// segmentLimit is the MSS to ask clients for, so that their longest packets
// still fit the fabric in their encapsulation; 0 when all of them do.
func segmentLimit(vip netip.Addr, clients, fabric, overhead int) int {
	room := fabric - overhead
	if fabric == 0 || room >= clients {
		return 0
	}
	headers := headers6
	if vip.Is4() {
		headers = headers4
	}
	return min(room-headers, maxSegment)
}

// limitSegments sets the MSS of the VIPs' listening sockets: a client learns
// it from the SYN-ACK.
func (d *Datapath) limitSegments() error {
	clients := d.clientMTU()
	d.mss = 0
	for _, b := range d.steering.Binds {
		if !d.isVIP(b.Bind.Addr()) {
			continue
		}
		limit := segmentLimit(b.Bind.Addr().Unmap(), clients, d.fabric, maxOverhead(d.planner.address))
		if limit > 0 && (d.mss == 0 || limit < d.mss) {
			d.mss = limit
		}
		if err := limitSockets(b, limit); err != nil {
			return err
		}
	}
	return nil
}

func limitSockets(b lb.SteeredBind, limit int) error {
	for slot, fd := range b.Sockets {
		if fd < 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, limit); err != nil {
			return fmt.Errorf("limit segments to slot %d of %s to %d bytes: %w", slot, b.Bind, limit, err)
		}
	}
	return nil
}

func (d *Datapath) isVIP(a netip.Addr) bool {
	return d.have.routes[a.Unmap()]
}

// clientMTU is the longest packet that may come in.
func (d *Datapath) clientMTU() (longest int) {
	for _, name := range d.options.Interfaces {
		if l, err := d.network.LinkByName(name); err == nil {
			longest = max(longest, l.Attrs().MTU)
		}
	}
	return longest
}
