package cluster

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// cutTransport reaches only the addresses that Options.Reaches allows: a network
// that falls apart on purpose.
type cutTransport struct {
	memberlist.NodeAwareTransport
	reaches func(netip.AddrPort) bool
}

var errCut = errors.New("the link is cut")

func (t *cutTransport) open(to string) bool {
	address, err := netip.ParseAddrPort(to)
	return err == nil && t.reaches(address)
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
		return nil, errCut
	}
	return t.NodeAwareTransport.DialAddressTimeout(to, timeout)
}
