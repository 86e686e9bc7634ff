package loop

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Dialer is a user that waits for its connection.
type Dialer interface {
	User
	// Connected says how Dial went. After an error the connection is closed.
	Connected(err error)
}

// Dial starts to connect c to address, "ip:port" as addr, or a socket's path
// when addr is not valid. Connected is told later, never from within the call;
// there is no time-out: Close ends the attempt.
func (c *Conn) Dial(l *Loop, addr netip.AddrPort, path string, d Dialer) error {
	family, sa := sockaddr(addr, path)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	if family != unix.AF_UNIX {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	err = unix.Connect(fd, sa)
	if err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	if err := c.init(l, fd, d, unix.EPOLLOUT); err != nil {
		return err
	}
	c.connects = true
	return nil
}

func sockaddr(addr netip.AddrPort, path string) (int, unix.Sockaddr) {
	switch {
	case !addr.IsValid():
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: path}
	case addr.Addr().Unmap().Is4():
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().Unmap().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}

// connected: the attempt is over.
func (c *Conn) connected() {
	code, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = os.NewSyscallError("connect", unix.Errno(code))
	}
	c.connects = false
	d := c.user.(Dialer)
	if err != nil {
		c.Close()
		d.Connected(err)
		return
	}
	c.ask(readEvents)
	if len(c.out) > 0 || c.closing {
		c.soil()
	}
	d.Connected(nil)
}
