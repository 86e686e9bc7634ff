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

// dialsPerTurn bounds how many connections a turn begins: on the way to a
// backend on this host the kernel does the backend's part of the work, too.
const dialsPerTurn = 16

// dial is a connection that is begun in a later turn.
type dial struct {
	conn   *Conn
	number uint32 // conn's index: it may have been closed and dialled again
	to     Remote
}

// Remote is where to connect to.
type Remote struct {
	Addr netip.AddrPort // not valid: Path
	Path string         // of a unix socket
	From netip.Addr     // of this host; not valid: the kernel chooses
	// Known says that it is for somebody who has taken before what was sent: the
	// kernel's want is not for him to wait for.
	Known bool
}

// Dial starts to connect c. Connected is told later, never from within the call;
// there is no time-out: Close ends the attempt.
func (c *Conn) Dial(l *Loop, to Remote, d Dialer) error {
	if l.dialed >= dialsPerTurn || !to.Known && !l.strain.mayDial() {
		l.putOff++
		*c = Conn{loop: l, user: d, fd: -1, index: l.putOff, made: connecting, span: firstRead}
		queue := &l.dials
		if to.Known {
			queue = &l.known
		}
		*queue = append(*queue, dial{c, l.putOff, to})
		return nil
	}
	return c.dial(l, to, d)
}

// dialMore begins some of the connections that earlier turns put off, the last
// ones first: if there are so many that those who wait are going to give up,
// those who came after them need not.
func (l *Loop) dialMore() {
	l.dialed = 0
	l.dialOf(&l.known)
	l.dialOf(&l.dials)
}

func (l *Loop) dialOf(queue *[]dial) {
	for len(*queue) > 0 && l.dialed < dialsPerTurn {
		last := len(*queue) - 1
		next := (*queue)[last]
		c := next.conn
		wanted := c.fd < 0 && !c.closed && c.index == next.number // else it was given up
		if wanted && !next.to.Known && !l.strain.mayDial() {
			return
		}
		(*queue)[last] = dial{}
		*queue = (*queue)[:last]
		if wanted {
			c.redial(next)
		}
	}
}

// redial begins a connection that was put off, with what is written already.
func (c *Conn) redial(next dial) {
	was := *c
	if err := c.dial(c.loop, next.to, was.user.(Dialer)); err != nil {
		*c = was
		c.Close()
		c.user.(Dialer).Connected(err)
		return
	}
	c.out, c.wide, c.paused, c.closing, c.ending = was.out, was.wide, was.paused, was.closing, was.ending
}

func (c *Conn) dial(l *Loop, to Remote, d Dialer) error {
	l.dialed++
	family, sa := sockaddr(to.Addr, to.Path)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	if family != unix.AF_UNIX {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if to.From.IsValid() && family != unix.AF_UNIX {
		if err := bindFrom(fd, to.From); err != nil {
			unix.Close(fd)
			return err
		}
	}
	err = unix.Connect(fd, sa)
	if err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	if err := c.init(l, fd, d, unix.EPOLLOUT); err != nil {
		return err
	}
	c.made = connecting
	return nil
}

// bindFrom makes fd connect from an address. Its port is chosen by connect, which
// knows the other end: there are as many for each of those.
func bindFrom(fd int, from netip.Addr) error {
	_, sa := sockaddr(netip.AddrPortFrom(from, 0), "")
	_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // without it ports are fewer
	return os.NewSyscallError("bind to "+from.String(), unix.Bind(fd, sa))
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
	c.made = dialed
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
