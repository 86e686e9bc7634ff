package loop

import (
	"net"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

type acceptFunc func(fd int)

func (f acceptFunc) Accepted(fd int, _ netip.AddrPort) { f(fd) }

// listenOn makes l accept, and returns where.
func listenOn(t *testing.T, l *Loop, f func(fd int)) string {
	t.Helper()
	addr, _ := listener(t, l, f)
	return addr
}

func listener(t *testing.T, l *Loop, f func(fd int)) (string, *Listener) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0) // Fd makes it blocking
	if err != nil {
		t.Fatal(err)
	}
	var lo *Listener
	on(t, l, func() {
		if lo, err = l.Listen(fd, acceptFunc(f)); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), lo
}

func TestAReceivedListenerIsMadeNonBlocking(t *testing.T) {
	l := running(t)
	_, ln := listener(t, l, func(fd int) { unix.Close(fd) })
	flags, err := unix.FcntlInt(uintptr(ln.fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
	fdFlags, _ := unix.FcntlInt(uintptr(ln.fd), unix.F_GETFD, 0)
	if fdFlags&unix.FD_CLOEXEC == 0 {
		t.Error("not close-on-exec")
	}
}

func TestWithoutDescriptorsAListenerRests(t *testing.T) {
	l := running(t)
	accepted := make(chan int, 10)
	addr, ln := listener(t, l, func(fd int) { accepted <- fd })
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	unix.Close(wait(t, accepted))

	second, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(second)
	full := exhaust(t)
	sa := netip.MustParseAddrPort(addr)
	if err := unix.Connect(second, &unix.SockaddrInet4{Port: int(sa.Port()), Addr: sa.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	turns := uint64(0)
	for ln.rests.Load() < 2 {
		runtime.Gosched()
		turns = l.Turns()
	}
	if turns > 1000 {
		t.Errorf("%d turns for two rests: it spins", turns)
	}
	full()
	unix.Close(wait(t, accepted))
}

// exhaust lowers the limit of descriptors to what is open, until called back.
func exhaust(t *testing.T) (undo func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	undone := false
	undo = func() {
		if !undone {
			undone = true
			unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		}
	}
	t.Cleanup(undo)
	return undo
}
