package worker

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func loopback(t *testing.T, slots int) *group {
	t.Helper()
	g, err := openGroup(netip.MustParseAddrPort("127.0.0.1:0"), slots, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	if err := g.listen(0); err != nil {
		t.Fatal(err)
	}
	return g
}

// land opens connections and counts in which slot each waits.
func land(t *testing.T, g *group, n int) []int {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", g.actual.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	var counts []int
	for _, fd := range g.fds {
		counts = append(counts, waiting(fd))
		for {
			c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				break
			}
			t.Cleanup(func() { unix.Close(c) })
		}
	}
	return counts
}

func TestConnectionsAreSteeredToLiveSlots(t *testing.T) {
	g := loopback(t, 4)
	for _, c := range []struct {
		name string
		live []bool
		none []int // slots that get nothing
	}{
		{"all: the kernel's hash", []bool{true, true, true, true}, nil},
		{"two of four", []bool{true, false, true, false}, []int{1, 3}},
		{"only the last", []bool{false, false, false, true}, []int{0, 1, 2}},
		{"none: the kernel's hash, somebody may recover", []bool{false, false, false, false}, nil},
		{"all again", []bool{true, true, true, true}, nil},
	} {
		if err := g.steer(c.live); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for slot, n := range land(t, g, 120) {
			if (n == 0) != slices.Contains(c.none, slot) {
				t.Errorf("%s: slot %d got %d of 120", c.name, slot, n)
			}
		}
	}
}

func TestSocketsAreAsTheLoopsNeedThem(t *testing.T) {
	g := loopback(t, 2)
	for slot, fd := range g.fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("slot %d blocks (%v)", slot, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("slot %d is inherited (%v)", slot, err)
		}
		if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
			t.Errorf("slot %d speaks protocol %d (%v)", slot, protocol, err)
		}
	}
}

func TestTheUnspecifiedAddressTakesBothFamilies(t *testing.T) {
	g, err := openGroup(netip.MustParseAddrPort("[::]:0"), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if err := g.listen(0); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), g.actual.Port()).String())
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		c.Close()
	}
}

func TestAnAddressOfNoInterfaceCanBeBound(t *testing.T) {
	for _, vip := range []string{"192.0.2.10:0", "[2001:db8::10]:0"} {
		g, err := openGroup(netip.MustParseAddrPort(vip), 2, nil)
		if err != nil {
			t.Errorf("%s: %v", vip, err)
			continue
		}
		g.close()
	}
}

func TestAPrivilegedPortSaysWhatToDo(t *testing.T) {
	err := ExplainBind(netip.MustParseAddrPort("0.0.0.0:80"), unix.EACCES)
	for _, want := range []string{"bind 0.0.0.0:80", "root", "cap_net_bind_service"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if err := ExplainBind(netip.MustParseAddrPort("0.0.0.0:80"), unix.ENOBUFS); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("%v hides its cause", err)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.2", false},
		{"0.0.0.0", "127.0.0.1", true},
		{"::", "127.0.0.1", true},
		{"0.0.0.0", "::", true},
		{"0.0.0.0", "::1", false},
		{"::ffff:127.0.0.1", "127.0.0.1", true},
	} {
		a, b := netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)
		if overlap(a, b) != c.want || overlap(b, a) != c.want {
			t.Errorf("overlap of %s and %s is %v", a, b, !c.want)
		}
	}
}
