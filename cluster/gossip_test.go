package cluster

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// cut wraps a transport so that it reaches only nodes of its own side.
func (n *network) cut(t memberlist.NodeAwareTransport) memberlist.NodeAwareTransport {
	port := t.(*memberlist.NetTransport).GetAutoBindPort()
	return &cutTransport{t, n, netip.AddrPortFrom(loopback.Addr(), uint16(port))}
}

type cutTransport struct {
	memberlist.NodeAwareTransport
	network *network
	from    netip.AddrPort
}

func (t *cutTransport) open(to string) bool {
	address, err := netip.ParseAddrPort(to)
	return err == nil && t.network.reachable(t.from, address)
}

func (t *cutTransport) WriteTo(b []byte, to string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: to})
}

func (t *cutTransport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if !t.open(to.Addr) {
		return time.Now(), nil // lost on the way
	}
	return t.NodeAwareTransport.WriteToAddress(b, to)
}

func (t *cutTransport) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: to}, timeout)
}

func (t *cutTransport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if !t.open(to.Addr) {
		return nil, errors.New("cut")
	}
	return t.NodeAwareTransport.DialAddressTimeout(to, timeout)
}
