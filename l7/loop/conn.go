package loop

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrStalled ends a connection whose peer takes nothing of what is written.
var ErrStalled = errors.New("peer does not read")

// ErrSlow ends a connection whose peer takes less than Pace of what is written.
var ErrSlow = errors.New("peer reads too slowly")

const (
	// stallTimeout is how long a write may make no progress.
	stallTimeout = 30 * time.Second
	// direct is the size from which a write goes to the kernel at once,
	// uncopied, instead of at the end of the turn.
	direct = 16 << 10
	// lowWater is how much must have been buffered for Drained to be told.
	lowWater = 32 << 10
	// firstRead is the size of a connection's first read; full ones double it.
	// What was read has to be kept if the other side does not take it.
	firstRead = 16 << 10
)

// User is told what a connection reads.
type User interface {
	// Received brings bytes that are valid during the call only.
	Received(p []byte)
	// Ended says that nothing more is received: io.EOF after the peer's FIN;
	// any other error is the end of writing, too, and may follow an io.EOF. The
	// connection still wants its Close.
	Ended(err error)
	// Drained says that all is written after it was blocked, or after
	// Buffered was above 32 KiB.
	Drained()
}

// Watcher is a user that is told of events instead of being read for; see
// Conn.Watch.
type Watcher interface{ Watched() }

// Conn is a connected, non-blocking stream socket. It is made to be embedded:
// Init makes it part of a loop. What Received does not take is lost, so pause
// before it is too much.
type Conn struct {
	loop  *Loop
	user  User
	out   []byte // of the loop's buffers; nil when nothing waits
	sent  int    // of out
	taken uint64 // by the kernel, of all that was written
	stall *stall // of the loop's; nil unless blocked: most connections are idle
	fd    int32
	index uint32
	want  uint32 // what epoll is asked for
	gen   uint32
	span  uint32 // the most that the next read takes

	dirty   bool // among loop.dirty
	paused  bool
	blocked bool // the kernel takes no more for now
	wide    bool // buffered more than lowWater since the last Drained
	eof     bool // the peer's FIN was read
	closing bool // CloseWrite once all is written; with ending: it counts as owing
	ending  bool // Close once all is written; user hears nothing
	closed  bool
	broken  bool // nothing can be written any more
	muted   bool // no more with epoll
	watched bool
	made    making
}

// making is how a connection came about.
type making uint8

const (
	accepted   making = iota
	connecting        // connect is under way
	dialed
)

const readEvents = unix.EPOLLIN | unix.EPOLLRDHUP

// Init makes c the connection fd, which must not block, and reads from it. After
// an error fd is closed.
func (c *Conn) Init(l *Loop, fd int, u User) error {
	return c.init(l, fd, u, readEvents)
}

func (c *Conn) init(l *Loop, fd int, u User, want uint32) error {
	*c = Conn{loop: l, user: u, fd: int32(fd), want: want, span: firstRead}
	index, generation, err := l.register(fd, want, c)
	if err != nil {
		unix.Close(fd)
		c.closed = true
		return err
	}
	c.index, c.gen = index, generation
	return nil
}

// Loop is the loop the connection belongs to.
func (c *Conn) Loop() *Loop { return c.loop }

// FD is the descriptor, for getsockopt and the like.
func (c *Conn) FD() int { return int(c.fd) }

// Use changes who is told.
func (c *Conn) Use(u User) { c.user = u }

// ready is what epoll says.
func (c *Conn) ready(events uint32) {
	switch {
	case c.made == connecting:
		c.connected()
		return
	case c.watched:
		c.user.(Watcher).Watched()
		return
	}
	if events&unix.EPOLLOUT != 0 && c.blocked {
		c.flush()
	}
	if events&^unix.EPOLLOUT != 0 && !c.closed {
		c.readable(events)
	}
}

// readable reads once; a second time if the peer's FIN is known to be there.
func (c *Conn) readable(events uint32) {
	const dead = unix.EPOLLHUP | unix.EPOLLERR
	if c.paused || c.eof || c.ending {
		if events&dead != 0 {
			c.hangUp()
			return
		}
		c.ask(c.want &^ readEvents)
		return
	}
	if c.read() && events&(unix.EPOLLRDHUP|dead) != 0 {
		c.read()
	}
}

// hangUp: the connection died, or it only was ended in both directions: by us and
// by the peer, or by the close of a unix socket's. Then what the peer said before is
// still to be read, when the user wants it; until then epoll would tell for ever.
func (c *Conn) hangUp() {
	err := c.socketError()
	if err == io.ErrUnexpectedEOF && c.paused && !c.eof && !c.ending && !c.broken && !c.blocked {
		c.mute()
		return
	}
	c.fail(err)
}

// read reports whether all there was may have been read, and more can be.
func (c *Conn) read() bool {
	span := int(c.span)
	n, errno := rawRead(int(c.fd), c.loop.input[:span])
	switch {
	case errno == unix.EAGAIN:
		return false
	case errno != 0:
		c.fail(os.NewSyscallError("read", errno))
		return false
	case n == 0 && c.broken: // a reset: the write that met it took its error away
		c.fail(os.NewSyscallError("read", unix.ECONNRESET))
		return false
	case n == 0:
		c.eof = true
		c.user.Ended(io.EOF)
		return false
	}
	if n == span {
		c.span = uint32(min(2*span, MaxIO))
	}
	c.user.Received(c.loop.input[:n])
	return n < span && !c.paused && !c.closed && !c.ending && !c.watched
}

// socketError is why the connection died.
func (c *Conn) socketError() error {
	code, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = os.NewSyscallError("socket", unix.Errno(code))
	}
	if err == nil {
		err = io.ErrUnexpectedEOF // both directions are shut
	}
	return err
}

// fail is the end of both directions. A connection that only had to write out
// what it held is closed.
func (c *Conn) fail(err error) {
	c.drop()
	if c.ending {
		c.Close()
		return
	}
	c.broken, c.eof = true, true
	c.mute()
	c.user.Ended(err)
}

// mute makes epoll forget a dead descriptor, which it would report for ever.
func (c *Conn) mute() {
	if !c.muted {
		c.muted = true
		_ = c.loop.control(unix.EPOLL_CTL_DEL, int(c.fd), 0, 0, 0)
	}
}

// ask changes what epoll watches.
func (c *Conn) ask(want uint32) {
	if want == c.want || c.closed || c.muted {
		return
	}
	c.want = want
	// It cannot fail: the descriptor is registered and no memory is needed.
	_ = c.loop.control(unix.EPOLL_CTL_MOD, int(c.fd), want, c.index, c.gen)
}

// Pause stops Received. It costs nothing unless bytes come. What is read
// afterwards is little at first: the other side was slow.
func (c *Conn) Pause() {
	c.paused = true
	c.Fit(0)
}

// Fit makes the next read take up to n bytes, or 16 KiB when that is more: what
// the other side is going to take.
func (c *Conn) Fit(n int) { c.span = uint32(min(max(n, firstRead), MaxIO)) }

// Resume takes a Pause back.
func (c *Conn) Resume() {
	c.paused = false
	switch {
	case c.eof:
	case c.muted && !c.closed: // by hangUp
		c.muted = false
		c.want |= readEvents
		_ = c.loop.control(unix.EPOLL_CTL_ADD, int(c.fd), c.want, c.index, c.gen)
	default:
		c.ask(c.want | readEvents)
	}
}

// Watch hands readiness to the user, a Watcher, instead of reading: of an idle
// connection that another thread may Steal, only the user knows whether it may
// still be touched.
func (c *Conn) Watch(on bool) { c.watched = on }

// Close closes the connection now. What was not written is dropped.
func (c *Conn) Close() {
	if c.closed {
		return
	}
	c.drop()
	c.closed = true
	if c.ending && c.closing {
		c.loop.owing.Add(-1)
	}
	if c.fd < 0 { // Dial has put it off
		return
	}
	c.loop.release(c.index)
	_ = unix.Close(int(c.fd))
}

// ResetOnClose makes Close send RST instead of FIN.
func (c *Conn) ResetOnClose() {
	_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func (c *Conn) abandon() { unix.Close(int(c.fd)) }

// Release takes the connection from its loop and returns the descriptor.
func (c *Conn) Release() int {
	_ = c.loop.control(unix.EPOLL_CTL_DEL, int(c.fd), 0, 0, 0)
	c.Forget()
	return int(c.fd)
}

// Movable reports whether another process could go on with the connection.
func (c *Conn) Movable() bool {
	return !c.closed && !c.broken && !c.ending && !c.muted && c.made != connecting && !c.watched
}

// HandOver is Release for another process to go on: it returns what was written
// and not sent, too. A FIN that was read is read again there.
func (c *Conn) HandOver() (fd int, unsent []byte) {
	unsent = append([]byte(nil), c.out[c.sent:]...)
	c.drop()
	return c.Release(), unsent
}

// Steal is the first half of Release, by another thread: the loop hears no more
// of the descriptor. Its own thread must be made to Forget the connection, and
// must not touch it otherwise.
func (c *Conn) Steal() int {
	_ = c.loop.control(unix.EPOLL_CTL_DEL, int(c.fd), 0, 0, 0)
	return int(c.fd)
}

// Forget is the second half: the connection is no more of this loop.
func (c *Conn) Forget() {
	c.unstall()
	c.closed = true
	c.loop.release(c.index)
}

// Connecting reports whether Dial is under way.
func (c *Conn) Connecting() bool { return c.made == connecting && !c.closed }

// Closed reports whether the connection was closed or given away.
func (c *Conn) Closed() bool { return c.closed }
