package cluster

import (
	"net/netip"

	"github.com/hashicorp/memberlist"
)

// cut wraps a transport so that it reaches only nodes of its own side.
func (n *network) cut(t memberlist.NodeAwareTransport) memberlist.NodeAwareTransport {
	port := t.(*memberlist.NetTransport).GetAutoBindPort()
	from := netip.AddrPortFrom(loopback.Addr(), uint16(port))
	return &cutTransport{t, func(to netip.AddrPort) bool { return n.reachable(from, to) }}
}
