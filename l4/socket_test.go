package l4

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// lookup is what sk_lookup sees of a new connection (struct bpf_sk_lookup).
type lookup struct {
	Cookie     uint64
	Family     uint32
	Protocol   uint32
	RemoteIP4  [4]byte
	RemoteIP6  [16]byte
	RemotePort [2]byte
	_          uint16
	LocalIP4   [4]byte
	LocalIP6   [16]byte
	LocalPort  uint32
	Ifindex    uint32
	_          uint32
}

// choose returns the cookie of the socket that a connection is given to, 0 for
// none, and whether the program lets the kernel go on.
func (r *rig) choose(t lb.Tuple) (uint64, bool) {
	r.t.Helper()
	in := lookup{Protocol: uint32(t.Protocol), LocalPort: uint32(t.Dst.Port())}
	binary.BigEndian.PutUint16(in.RemotePort[:], t.Src.Port())
	if t.Dst.Addr().Is4() {
		in.Family, in.RemoteIP4, in.LocalIP4 = unix.AF_INET, t.Src.Addr().As4(), t.Dst.Addr().As4()
	} else {
		in.Family, in.RemoteIP6, in.LocalIP6 = unix.AF_INET6, t.Src.Addr().As16(), t.Dst.Addr().As16()
	}
	var out lookup
	verdict, err := r.SteerSocket.Run(&ebpf.RunOptions{Context: in, ContextOut: &out})
	if err != nil {
		r.t.Fatal(err)
	}
	return out.Cookie, verdict == 1
}

// listeners opens n sockets of one reuseport group.
func listeners(t testing.TB, address string, n int) (bind lb.SteeredBind, all []net.Listener) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	config.SetMultipathTCP(false)
	for range n {
		network := "tcp"
		if netip.MustParseAddrPort(address).Addr().Is4() {
			network = "tcp4" // else Go makes 0.0.0.0 a socket of both families
		}
		l, err := config.Listen(context.Background(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		address = l.Addr().String()
		all = append(all, l)
		one := bindOf(t, l)
		bind.Bind = one.Bind
		bind.Sockets = append(bind.Sockets, one.Sockets[0])
		bind.Live = append(bind.Live, true)
	}
	return bind, all
}

// bindOf makes a bind of one listener, which stays its owner.
func bindOf(t testing.TB, l net.Listener) lb.SteeredBind {
	t.Helper()
	c, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := lb.SteeredBind{Bind: netip.MustParseAddrPort(l.Addr().String()), Live: []bool{true}}
	c.Control(func(fd uintptr) { b.Sockets = []int{int(fd)} })
	return b
}

func (r *rig) spread(bind netip.AddrPort, n int) map[uint64]int {
	got := map[uint64]int{}
	for i := range n {
		cookie, _ := r.choose(tuple(lb.TCP, fmt.Sprintf("198.51.100.%d", i%250), uint16(1000+i), bind.Addr().String(), bind.Port()))
		got[cookie]++
	}
	return got
}

func TestNewConnectionsSpreadOverLiveSlots(t *testing.T) {
	bind, all := listeners(t, "127.0.0.1:0", 4)
	s := steering(edge1)
	s.Binds = []lb.SteeredBind{bind}
	r := newRig(t, edge1).apply(s)
	cookies := make([]uint64, len(all))
	for i, fd := range bind.Sockets {
		cookies[i], _ = cookieOf(fd)
	}
	for cookie, n := range r.spread(bind.Bind, 4000) {
		if cookie == 0 || n < 900 || n > 1100 {
			t.Errorf("socket %d of %v got %d of 4000", cookie, cookies, n)
		}
	}

	s.Binds[0].Live[1], s.Binds[0].Live[2] = false, false
	r.apply(s)
	if got := r.spread(bind.Bind, 1000); len(got) != 2 || got[cookies[0]] < 400 || got[cookies[3]] < 400 {
		t.Errorf("slots 0 and 3 of %v are live: %v", cookies, got)
	}

	s.Binds[0].Live = make([]bool, 4)
	r.apply(s)
	if got := r.spread(bind.Bind, 1000); len(got) != 4 || got[0] > 0 {
		t.Errorf("no slot is live: all are tried, not none: %v", got)
	}

	s.Binds[0].Live = []bool{true, true, true, true}
	r.apply(s)
	all[2].Close() // the kernel takes it out of the table by itself
	if got := r.spread(bind.Bind, 1000); len(got) != 3 || got[0] > 0 || got[cookies[2]] > 0 {
		t.Errorf("a socket is gone: the next live slot takes its part: %v of %v", got, cookies)
	}

	all[0].Close()
	all[1].Close()
	all[3].Close()
	if cookie, on := r.choose(tuple(lb.TCP, "1.2.3.4", 5, bind.Bind.Addr().String(), bind.Bind.Port())); cookie != 0 || on {
		t.Errorf("all sockets are gone: chose %d, goes on %v; want the connection refused", cookie, on)
	}
}

func TestTheMostSpecificBindWins(t *testing.T) {
	exact, _ := listeners(t, "127.0.0.1:0", 1)
	any4, _ := listeners(t, "0.0.0.0:0", 1)
	any6, _ := listeners(t, "[::]:0", 1)
	s := steering(edge1)
	for _, b := range []lb.SteeredBind{exact, any4, any6} {
		b.Bind = netip.AddrPortFrom(b.Bind.Addr(), 8080)
		s.Binds = append(s.Binds, b)
	}
	s.Binds = append(s.Binds, lb.SteeredBind{Bind: netip.MustParseAddrPort("[::]:9090"), Sockets: any6.Sockets, Live: any6.Live})
	r := newRig(t, edge1).apply(s)
	for _, c := range []struct {
		sentence, dst string
		port          uint16
		want          []int
	}{
		{"the address itself", "127.0.0.1", 8080, exact.Sockets},
		{"any IPv4 address", "192.0.2.1", 8080, any4.Sockets},
		{"any IPv6 address", "2001:db8::1", 8080, any6.Sockets},
		{"any address takes IPv4, too", "192.0.2.1", 9090, any6.Sockets},
		{"another port is not ours", "192.0.2.1", 7070, nil},
	} {
		src := "198.51.100.1"
		if netip.MustParseAddr(c.dst).Is6() {
			src = "2001:db8::77"
		}
		got, on := r.choose(tuple(lb.TCP, src, 1234, c.dst, c.port))
		want := uint64(0)
		if c.want != nil {
			want, _ = cookieOf(c.want[0])
		}
		if got != want || !on {
			t.Errorf("%s: chose %d, goes on %v; want %d", c.sentence, got, on, want)
		}
	}
}
