package loop

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Write takes p. Small pieces are gathered and sent at the end of the turn.
func (c *Conn) Write(p []byte) {
	if c.closed || c.ending || c.broken || len(p) == 0 {
		return
	}
	full := false
	if len(p) >= direct && !c.blocked && c.made != connecting {
		var n int
		n, full = c.writeNow(p)
		if p = p[n:]; len(p) == 0 || c.broken {
			return
		}
	}
	c.out = c.loop.Append(c.out, p)
	c.wide = c.wide || len(c.out)-c.sent > lowWater
	if full {
		c.block()
		return
	}
	c.soil()
}

// soil makes sure that the turn's end writes.
func (c *Conn) soil() {
	if !c.dirty && !c.blocked && c.made != connecting {
		c.dirty = true
		c.loop.dirty = append(c.loop.dirty, c)
	}
}

// writeNow sends what waits and p, and returns how much of p went, and whether
// the kernel would not have more.
func (c *Conn) writeNow(p []byte) (took int, full bool) {
	waiting := c.out[c.sent:]
	var n int
	var errno unix.Errno
	if len(waiting) == 0 {
		n, errno = rawWrite(int(c.fd), p)
	} else {
		n, errno = rawWrite2(int(c.fd), waiting, p)
	}
	switch {
	case errno == unix.EAGAIN:
		return 0, true
	case errno != 0:
		if c.reads() {
			c.stopWriting()
		}
		return 0, false // what does not read hears of it from the flush at the turn's end, which meets it again
	}
	full = n < min(len(waiting)+len(p), MaxIO)
	c.taken += uint64(n)
	if n < len(waiting) {
		c.sent += n
		return 0, full
	}
	c.recycle()
	return n - len(waiting), full
}

// flush sends what waits, as far as the kernel takes it.
func (c *Conn) flush() {
	if c.closed || c.broken {
		return
	}
	for c.sent < len(c.out) {
		n, errno := rawWrite(int(c.fd), c.out[c.sent:])
		if errno == unix.EAGAIN {
			c.block()
			return
		}
		if errno != 0 {
			c.failWrite(os.NewSyscallError("write", errno))
			return
		}
		c.sent += n
		c.taken += uint64(n)
	}
	c.written()
}

// block waits for the kernel to take more.
func (c *Conn) block() {
	c.wide = true
	c.shrink()
	if !c.blocked {
		c.blocked = true
		c.ask(c.want | unix.EPOLLOUT)
	}
	if c.stall == nil {
		c.stall = c.loop.timer()
		c.stall.acked = c.acked()
		c.stall.mark, c.stall.since = c.stall.acked, c.loop.now
		c.loop.strain.add(c)
		c.loop.Set(&c.stall.Timer, c.loop.stall, c)
	}
}

// shrink keeps what waits in a buffer of its size: it may wait for long.
func (c *Conn) shrink() {
	if rest := c.out[c.sent:]; cap(c.out) > sizes[0] && len(rest) <= cap(c.out)/4 {
		smaller := append(c.loop.Buffer(len(rest)), rest...)
		c.loop.Recycle(c.out)
		c.out, c.sent = smaller, 0
	}
}

// stall is how a write that is blocked comes on.
type stall struct {
	Timer
	acked uint64 // by the peer's kernel, when this was last looked at

	place int           // in the strain's list
	mark  uint64        // acked, when it last was enough for the strain
	since time.Duration // when that was
}

// acked is how much the peer's kernel has acknowledged of all that was written.
func (c *Conn) acked() uint64 { return c.taken + uint64(c.Buffered()) - uint64(c.Unacked()) }

// Expired looks at how much a blocked write came on. What the kernel took says
// little: it may have had room for megabytes that the peer never reads, or have
// none while the peer reads a third of them.
func (c *Conn) Expired(*Timer) {
	came := c.acked() - c.stall.acked
	switch {
	case came == 0:
		c.failWrite(ErrStalled)
	case came < uint64(c.loop.Least(c.loop.stall)):
		c.failWrite(ErrSlow)
	default:
		c.stall.acked += came
		c.loop.Set(&c.stall.Timer, c.loop.stall, c)
	}
}

// unstall gives the timer back.
func (c *Conn) unstall() {
	if c.stall != nil {
		c.loop.strain.remove(c)
		c.loop.Stop(&c.stall.Timer)
		c.loop.stalls = append(c.loop.stalls, c.stall)
		c.stall = nil
	}
}

// timer returns one that is not set.
func (l *Loop) timer() *stall {
	if n := len(l.stalls); n > 0 {
		t := l.stalls[n-1]
		l.stalls = l.stalls[:n-1]
		return t
	}
	return new(stall)
}

// written: nothing waits any more.
func (c *Conn) written() {
	c.recycle()
	if c.blocked {
		c.blocked = false
		c.unstall()
		c.ask(c.want &^ unix.EPOLLOUT)
	}
	switch {
	case c.ending:
		c.Close()
		return
	case c.closing:
		c.closing = false
		_ = unix.Shutdown(int(c.fd), unix.SHUT_WR) // fails only if the peer is gone, which reading tells
	}
	if c.wide {
		c.wide = false
		c.user.Drained()
	}
}

// failWrite: the peer takes no more. What it sent before may still be read, so
// reading goes on until that fails, too, unless it is over or paused.
func (c *Conn) failWrite(err error) {
	gaveUp := errors.Is(err, ErrStalled) || errors.Is(err, ErrSlow) || errors.Is(err, ErrStrain)
	if gaveUp {
		c.ResetOnClose() // else the kernel keeps for minutes what it has for the peer
	}
	if gaveUp || !c.reads() {
		c.fail(err)
		return
	}
	c.stopWriting()
}

// reads reports whether what is wrong will be told by reading, too.
func (c *Conn) reads() bool { return !c.ending && !c.eof && !c.paused }

func (c *Conn) stopWriting() {
	c.drop()
	c.broken = true
}

// drop gives up what waits.
func (c *Conn) drop() {
	c.recycle()
	c.unstall()
	if c.blocked {
		c.blocked = false
		c.ask(c.want &^ unix.EPOLLOUT)
	}
	c.closing, c.wide = c.closing && c.ending, false
}

func (c *Conn) recycle() {
	if c.out != nil {
		c.loop.Recycle(c.out[:0])
		c.out, c.sent = nil, 0
	}
}

// Buffered is how much was written and not yet taken by the kernel.
func (c *Conn) Buffered() int { return len(c.out) - c.sent }

// Blocked reports whether the kernel takes no more for now. Drained follows.
func (c *Conn) Blocked() bool { return c.blocked }

// Unacked is how much was written, FIN included, that the peer's kernel has not
// acknowledged: what a reset would still take from it.
func (c *Conn) Unacked() int {
	if c.closed {
		return 0
	}
	n, err := unix.IoctlGetInt(int(c.fd), unix.TIOCOUTQ)
	if err != nil { // the connection is gone
		return 0
	}
	return n + c.Buffered()
}

// Unread reports whether the kernel has something for us, or the peer's end, that
// was not read yet.
func (c *Conn) Unread() bool {
	if c.closed || c.eof || c.muted {
		return false
	}
	var b [1]byte
	_, _, err := unix.Recvfrom(int(c.fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == nil
}

// Taken is how much the kernel has taken of all that was written.
func (c *Conn) Taken() uint64 { return c.taken }

// Unsent is how much the kernel of a connection keeps, that was accepted after
// KeepUnsent, beside what is under way to the peer.
const Unsent = 128 << 10

// KeepUnsent makes connections that listener accepts hold at most Unsent. Else
// a peer that does not read costs the kernel megabytes.
func KeepUnsent(listener int) {
	_ = unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, Unsent) // there is none on a unix socket
}

// Room is how much the kernel is sure to take of what is written next.
func (c *Conn) Room() int {
	if c.Buffered() > 0 || c.closed {
		return 0
	}
	n, err := unix.IoctlGetInt(int(c.fd), unix.SIOCOUTQNSD)
	if err != nil { // a unix socket
		return Unsent
	}
	return max(0, Unsent-n)
}

// CloseWrite sends FIN after what was written.
func (c *Conn) CloseWrite() {
	if c.closed || c.ending {
		return
	}
	c.closing = true
	c.soil()
}

// Finish closes the connection after what was written. The user hears no more.
func (c *Conn) Finish() {
	if c.closed || c.ending {
		return
	}
	c.ending, c.closing = true, false
	if c.Buffered() == 0 {
		c.Close()
		return
	}
	c.closing = true
	c.loop.owing.Add(1)
	c.soil()
}
