package l4

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// A modelNode is a node of the model: programs and maps, and a network
// namespace of its own with the sockets that the programs look up.
type modelNode struct {
	*rig
	member lb.Member
	do     chan func()

	alive   bool
	side    int        // of a partition
	known   []lb.Epoch // newest first
	sockets map[*modelFlow]int
}

// A modelFlow is a client's connection: its segments arrive at one node, by
// ECMP, and its socket is at another.
type modelFlow struct {
	port    int
	ingress *modelNode
	owner   *modelNode
	parts   bool // its segments come in fragments, to a VIP that takes them
}

func (f *modelFlow) client() netip.Addr {
	if f.parts { // all flows of a client are in one row there
		return netip.AddrFrom4([4]byte{198, 51, 100, byte(f.port)})
	}
	return netip.MustParseAddr(client4)
}

func (f *modelFlow) vip() netip.Addr {
	if f.parts {
		return any4.Addr
	}
	return vip4.Addr
}

func (f *modelFlow) frame(flags string) []byte {
	return frame(eth(v4), ip4(f.client().String(), f.vip().String(), layers.IPProtocolTCP), tcp(f.port, 80, flags), data(10))
}

// frames are those of a segment: one, or its fragments in order.
func (f *modelFlow) frames() [][]byte {
	if f.parts {
		return split(f.frame("A"), 24, uint32(f.port))
	}
	return [][]byte{f.frame("A")}
}

func (f *modelFlow) row() int {
	if f.parts {
		return rowOf(flowHash(seed, tuple(lb.TCP, f.client().String(), 0, f.vip().String(), 0)))
	}
	return rowOf(flowHash(seed, tuple(lb.TCP, client4, uint16(f.port), "192.0.2.10", 80)))
}

// newModelNode starts a thread in a network namespace that ends with it.
func newModelNode(t *testing.T, member lb.Member) *modelNode {
	n := &modelNode{rig: newRig(t, member), member: member, do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		ready <- ownNetwork()
		for f := range n.do {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(n.do) })
	return n
}

func ownNetwork() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	vip := func(v lb.VIP) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: v.Addr.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	}
	return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, vip(vip4)), netlink.AddrAdd(lo, vip(any4)), netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Scope: unix.RT_SCOPE_LINK}))
}

func (n *modelNode) in(f func() error) (err error) {
	done := make(chan struct{})
	n.do <- func() { err = f(); close(done) }
	<-done
	return err
}

// accept gives the node an established socket, without a handshake.
func (n *modelNode) accept(f *modelFlow) error {
	return n.in(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		n.sockets[f] = fd
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: f.vip().As4(), Port: 80}),
			unix.Connect(fd, &unix.SockaddrInet4{Addr: f.client().As4(), Port: f.port}))
	})
}

func (n *modelNode) close(f *modelFlow) {
	unix.Close(n.sockets[f])
	delete(n.sockets, f)
}

// learn gives the node epochs that it lacks.
func (n *modelNode) learn(epochs []lb.Epoch, gone []string) {
	for _, e := range epochs {
		if i, found := slices.BinarySearchFunc(n.known, e, func(a, b lb.Epoch) int { return b.Compare(a) }); !found {
			n.known = slices.Insert(slices.Clone(n.known), i, e)
		}
	}
	s := steering(n.member)
	s.Fragments = []netip.Addr{any4.Addr}
	s.Epochs, s.Gone = n.known, gone
	n.apply(s)
}

// receive puts a frame through the node's program.
func (n *modelNode) receive(f []byte) (verdict uint32, reason lb.Reason, out []byte) {
	// A doubt ends after 2 s; how long the model takes must not matter.
	if err := n.Doubt.Put(uint32(0), bpf.Doubt{}); err != nil {
		n.t.Fatal(err)
	}
	_ = n.in(func() error { verdict, reason, out = n.run(f); return nil })
	return verdict, reason, out
}
