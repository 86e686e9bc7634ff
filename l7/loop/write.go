package loop

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Write takes p. Small pieces are gathered and sent at the end of the turn.
func (c *Conn) Write(p []byte) {
	if c.closed || c.ending || c.broken || len(p) == 0 {
		return
	}
	if len(p) >= direct && !c.blocked && !c.connects {
		p = p[c.writeNow(p):]
		if len(p) == 0 || c.closed {
			return
		}
	}
	c.out = c.loop.Append(c.out, p)
	c.wide = c.wide || len(c.out)-c.sent > lowWater
	c.soil()
}

// soil makes sure that the turn's end writes.
func (c *Conn) soil() {
	if !c.dirty && !c.blocked && !c.connects {
		c.dirty = true
		c.loop.dirty = append(c.loop.dirty, c)
	}
}

// writeNow sends what waits and p, and returns how much of p went.
func (c *Conn) writeNow(p []byte) int {
	waiting := c.out[c.sent:]
	var n int
	var errno unix.Errno
	if len(waiting) == 0 {
		n, errno = rawWrite(int(c.fd), p)
	} else {
		n, errno = rawWrite2(int(c.fd), waiting, p)
	}
	if errno != 0 {
		return 0 // the flush at the turn's end meets it again
	}
	c.taken += uint64(n)
	if n < len(waiting) {
		c.sent += n
		return 0
	}
	c.recycle()
	return n - len(waiting)
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
		c.progress()
	}
	c.written()
}

// block waits for the kernel to take more.
func (c *Conn) block() {
	c.wide = true
	if !c.blocked {
		c.blocked = true
		c.ask(c.want | unix.EPOLLOUT)
	}
	if c.stall == nil {
		c.stall = c.loop.timer()
		c.loop.Set(c.stall, c.loop.stall, c)
	}
}

// progress gives a blocked write its time again.
func (c *Conn) progress() {
	if c.stall != nil {
		c.loop.Set(c.stall, c.loop.stall, c)
	}
}

// Expired is the stall timer's.
func (c *Conn) Expired(*Timer) { c.failWrite(ErrStalled) }

// unstall gives the timer back.
func (c *Conn) unstall() {
	if c.stall != nil {
		c.loop.Stop(c.stall)
		c.loop.stalls = append(c.loop.stalls, c.stall)
		c.stall = nil
	}
}

// timer returns one that is not set.
func (l *Loop) timer() *Timer {
	if n := len(l.stalls); n > 0 {
		t := l.stalls[n-1]
		l.stalls = l.stalls[:n-1]
		return t
	}
	return new(Timer)
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
	if c.ending || c.eof || c.paused || errors.Is(err, ErrStalled) {
		c.fail(err)
		return
	}
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
	c.closing, c.wide = false, false
}

func (c *Conn) recycle() {
	if c.out != nil {
		c.loop.Recycle(c.out[:0])
		c.out, c.sent = nil, 0
	}
}

// Buffered is how much was written and not yet taken by the kernel.
func (c *Conn) Buffered() int { return len(c.out) - c.sent }

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
	c.soil()
}
