package loop

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// acceptsPerTurn bounds how many connections one event of a listener makes.
	acceptsPerTurn = 64
	// acceptBackoff is how long a listener rests that cannot get a descriptor.
	acceptBackoff = 100 * time.Millisecond
)

// Acceptor gets accepted sockets: close-on-exec, non-blocking, its to close.
type Acceptor interface {
	Accepted(fd int, peer netip.AddrPort)
}

// Listener accepts from one listening socket.
type Listener struct {
	loop     *Loop
	acceptor Acceptor
	fd       int
	index    uint32
	gen      uint32
	rest     Timer
	closed   bool
	rests    atomic.Uint64 // how often it had to rest
}

// Listen accepts from fd, a listening socket, which it owns from now on.
func (l *Loop) Listen(fd int, a Acceptor) (*Listener, error) {
	if err := NonBlocking(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	unix.CloseOnExec(fd)
	ln := &Listener{loop: l, acceptor: a, fd: fd}
	var err error
	if ln.index, ln.gen, err = l.register(fd, unix.EPOLLIN, ln); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return ln, nil
}

// Close stops accepting. The socket may be open elsewhere, so epoll must be
// told: closing our duplicate would not.
func (ln *Listener) Close() {
	if ln.closed {
		return
	}
	ln.closed = true
	ln.loop.Stop(&ln.rest)
	_ = ln.loop.control(unix.EPOLL_CTL_DEL, ln.fd, 0, 0, 0)
	ln.loop.release(ln.index)
	unix.Close(ln.fd)
}

// TakeWaiting accepts who is in the queue now, at most a turn's worth: what is
// left when the last descriptor of a listener is closed gets a reset.
func (ln *Listener) TakeWaiting() {
	if !ln.closed {
		ln.ready(0)
	}
}

func (ln *Listener) abandon() { unix.Close(ln.fd) }

func (ln *Listener) ready(uint32) {
	for range acceptsPerTurn {
		fd, peer, errno := accept(ln.fd)
		switch errno {
		case 0:
			ln.acceptor.Accepted(fd, peer)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR, unix.EPROTO, unix.EPERM:
			// this one connection's trouble
		default: // EMFILE, ENFILE, ENOBUFS, ENOMEM: level-triggered epoll would spin
			ln.takeRest()
			return
		}
		if ln.closed {
			return
		}
	}
}

func (ln *Listener) takeRest() {
	ln.rests.Add(1)
	ln.loop.rests.Add(1)
	_ = ln.loop.control(unix.EPOLL_CTL_MOD, ln.fd, 0, ln.index, ln.gen)
	ln.loop.Set(&ln.rest, acceptBackoff, ln)
}

// Expired ends a rest.
func (ln *Listener) Expired(*Timer) {
	_ = ln.loop.control(unix.EPOLL_CTL_MOD, ln.fd, unix.EPOLLIN, ln.index, ln.gen)
}

func accept(listener int) (fd int, peer netip.AddrPort, errno syscall.Errno) {
	var raw unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(raw))
	n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&raw)),
		uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), addrPort(&raw), 0
}

// addrPort reads what the kernel wrote; zero for other families.
func addrPort(raw *unix.RawSockaddrAny) netip.AddrPort {
	switch raw.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), port(a.Port))
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(raw))
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), port(a.Port))
	}
	return netip.AddrPort{}
}

// port turns network byte order round.
func port(p uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return uint16(b[0])<<8 | uint16(b[1])
}

// LocalAddr returns the address a socket is bound to: the one that the client
// connected to.
func LocalAddr(fd int) (netip.AddrPort, error) {
	var raw unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(raw))
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}, fmt.Errorf("read local address of descriptor %d: %w", fd, errno)
	}
	return addrPort(&raw), nil
}
