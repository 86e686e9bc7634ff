package l4

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cirque-lb/lb/bpf"
)

// Routers of the fabric say by ICMP how long packets to a peer may be. The
// programs note it (bpf/ours.h) and go by it at once; here it is remembered for
// as long as a host remembers such a thing, and then tried again (RFC 1191, 6.3).
const pathHolds = 10 * time.Minute

const pathWords = int(unsafe.Sizeof(bpf.PathMTU{}) / 8)

// path is what was said of the way to a peer.
func (k *kernel) path(index uint32) (p bpf.PathMTU) {
	for i, into := 0, asWords(&p); i < len(into); i++ {
		into[i] = k.paths.load(int(index)*pathWords + i)
	}
	return p
}

func (k *kernel) forgetPath(index uint32) {
	for i := range pathWords {
		k.paths.store(int(index)*pathWords+i, 0)
	}
}

// narrow lowers a peer's MTU to what was said of the way there, while that
// holds; said is a line for the report, or "".
func (k *kernel) narrow(index uint32, p *bpf.Peer, now uint64) (said string) {
	path := k.path(index)
	switch {
	case path.At == 0:
		return ""
	case now > path.At+uint64(pathHolds):
		k.forgetPath(index)
		return ""
	case path.MTU >= uint32(p.MTU):
		return ""
	}
	p.MTU = uint16(path.MTU)
	return fmt.Sprintf("a router on the way to peer %s takes packets of %d bytes at most", netip.AddrFrom16(p.Address).Unmap(), path.MTU)
}
