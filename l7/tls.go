package l7

import (
	"crypto/tls"
	"io"
	"net"

	"github.com/cirque-lb/lb/l7/loop"
)

// tlsConn is a transport: crypto/tls between a loop's connection and a user.
//
// The handshake runs on a goroutine, over the wire's locked buffers. From
// shaken on everything runs on the loop: what the socket brings is put into the
// wire and Read until it would block; what is written is gathered and encrypted
// at the turn's end.
type tlsConn struct {
	raw    *loop.Conn
	thread *thread
	user   loop.User
	idle   settler // user, when it wants to know
	conn   *tls.Conn
	wire   wire
	done   func(err error) // told of the handshake's end, on the loop

	plain []byte // written, not yet encrypted; of the loop's buffers
	state tlsState

	paused  bool
	more    bool // a pause left bytes unread that no event will bring again
	later   bool // RunLater is due
	pumping bool
	gone    bool // the socket's end was seen
}

type tlsState uint8

const (
	tlsShaking tlsState = iota
	tlsOpen
	tlsEnded  // nothing more is received
	tlsClosed // the user hears no more
)

// gatherBelow is how much plaintext is gathered: what fits one record.
const gatherBelow = 16 << 10

var _ transport = (*tlsConn)(nil)

// startTLS makes TLS over raw, which is connected, and starts the handshake.
// done is called on the loop, never from within this call, unless the
// connection is closed before. It says who Uses the connection.
func (t *thread) startTLS(raw *loop.Conn, over func(*wire) *tls.Conn, done func(err error)) *tlsConn {
	c := &tlsConn{raw: raw, thread: t, done: done}
	c.wire.init(c)
	c.conn = over(&c.wire)
	raw.Use(c)
	go c.handshake()
	return c
}

// handshake runs on its goroutine, which ends when the peer, a time-out or a
// close lets it.
func (c *tlsConn) handshake() {
	c.wire.gate = &c.thread.proxy.handshakes
	err := c.wire.enter()
	if err == nil {
		err = c.conn.Handshake()
	}
	c.wire.leave()
	c.thread.loop.Post(func() { c.shaken(err) })
}

// shaken ends the handshake on the loop. From here on no goroutine but the
// loop's touches the connection.
func (c *tlsConn) shaken(err error) {
	if c.state == tlsClosed {
		return
	}
	c.wire.flush()
	c.wire.open = true
	if err != nil {
		c.state = tlsEnded
		c.done(err)
		return
	}
	c.state = tlsOpen
	c.resumeRaw()
	c.done(nil)
	c.again() // what came behind the handshake is here already
}

// again pumps later in the turn.
func (c *tlsConn) again() {
	c.more = true
	c.soil()
}

func (c *tlsConn) soil() {
	if !c.later && c.state != tlsClosed {
		c.later = true
		c.thread.loop.Later(c)
	}
}

// RunLater encrypts what was gathered and reads what a pause left.
func (c *tlsConn) RunLater() {
	c.later = false
	if c.state == tlsClosed {
		return
	}
	c.encrypt(nil)
	if c.more && !c.paused && c.state == tlsOpen {
		c.pump()
		return
	}
	c.settle()
}

// settler is a user that gives its connection to other threads while it is
// idle. Settled says that nothing of it is under way on this one: it is the
// last thing a turn does with the connection.
type settler interface{ Settled() }

func (c *tlsConn) settle() {
	if c.idle != nil && c.state == tlsOpen && !c.later && !c.more {
		c.idle.Settled()
	}
}

// Received is the socket's: ciphertext.
func (c *tlsConn) Received(p []byte) {
	switch c.state {
	case tlsShaking:
		c.wire.feed(p)
	case tlsOpen:
		c.wire.lend(p)
		c.pump()
	}
}

// pump reads until it would block.
func (c *tlsConn) pump() {
	if c.pumping {
		return
	}
	c.pumping, c.more = true, false
	buffer := c.thread.loop.Buffer(gatherBelow)
	for !c.paused && c.state == tlsOpen {
		n, err := c.conn.Read(buffer[:gatherBelow])
		if n > 0 {
			c.user.Received(buffer[:n])
		}
		if err == errWouldBlock {
			break
		}
		if err != nil && c.state == tlsOpen {
			c.end(err)
		}
	}
	c.more = c.state == tlsOpen && c.paused // perhaps; asking costs nothing
	c.thread.loop.Recycle(buffer)
	c.wire.keep()
	c.pumping = false
	c.settle()
}

// end tells the user that nothing more is received: io.EOF after the peer's
// close_notify, errTruncated after a mere FIN, else what went wrong.
func (c *tlsConn) end(err error) {
	c.state = tlsEnded
	c.user.Ended(err)
}

// Ended is the socket's. What came before a FIN is still read.
func (c *tlsConn) Ended(err error) {
	c.gone = true
	switch {
	case c.state == tlsShaking:
		c.wire.fail(truncated(err))
	case c.state == tlsClosed:
	case err != io.EOF:
		c.end(err) // both directions are dead
	case c.state == tlsOpen:
		c.wire.err = errTruncated
		if c.paused {
			c.more = true
			return
		}
		c.pump()
	}
}

func truncated(err error) error {
	if err == io.EOF {
		return errTruncated
	}
	return err
}

// Drained is the socket's.
func (c *tlsConn) Drained() {
	if c.state == tlsOpen || c.state == tlsEnded {
		c.user.Drained()
	}
}

// Use is transport's, as what follows.
func (c *tlsConn) Use(u loop.User) {
	c.user = u
	c.idle, _ = u.(settler)
}

// Write gathers small pieces into one record per turn. Nothing is gathered
// beside much ciphertext that waits, so that Buffered never shrinks from above
// its low-water mark without a Drained.
func (c *tlsConn) Write(p []byte) {
	if c.state != tlsOpen && c.state != tlsEnded {
		return
	}
	if c.Buffered()+len(p) >= gatherBelow {
		c.encrypt(p)
		return
	}
	c.plain = c.thread.loop.Append(c.plain, p)
	c.soil()
}

// encrypt sends what was gathered, and p.
func (c *tlsConn) encrypt(p []byte) {
	if len(c.plain) > 0 {
		plain := c.plain
		c.plain = nil
		if len(plain)+len(p) <= gatherBelow {
			plain, p = c.thread.loop.Append(plain, p), nil
		}
		c.seal(plain)
		c.thread.loop.Recycle(plain)
	}
	if len(p) > 0 {
		c.seal(p)
	}
}

// What records add to their plaintext: 22 bytes each in TLS 1.3, at most 29 in
// 1.2 with GCM, 69 with CBC.
const recordOverhead = 80

// sealAtOnce is the plaintext whose records fit one buffer of the loop.
const sealAtOnce = loop.MaxIO / (gatherBelow + recordOverhead) * gatherBelow

// seal writes records, as many as one write takes into one buffer. It fails only
// after our own close_notify; the wire takes everything.
func (c *tlsConn) seal(p []byte) {
	for len(p) > gatherBelow {
		n := min(len(p), sealAtOnce)
		c.wire.out = c.thread.loop.Buffer(n + (n/gatherBelow+1)*recordOverhead)
		c.wire.gather = true
		_, _ = c.conn.Write(p[:n])
		c.wire.gather = false
		c.wire.flush()
		p = p[n:]
	}
	if len(p) > 0 {
		_, _ = c.conn.Write(p)
	}
}

func (c *tlsConn) Unread() bool { return c.raw.Unread() }

func (c *tlsConn) Unacked() int { return c.raw.Unacked() + len(c.plain) }

func (c *tlsConn) Blocked() bool { return c.raw.Blocked() }

func (c *tlsConn) Room() int { return max(0, c.raw.Room()-len(c.plain)) }

func (c *tlsConn) Fit(n int) { c.raw.Fit(n) }

func (c *tlsConn) Buffered() int { return c.raw.Buffered() + len(c.plain) }

func (c *tlsConn) Pause() {
	c.paused = true
	c.raw.Pause()
}

func (c *tlsConn) Resume() {
	c.paused = false
	c.resumeRaw()
	if c.more {
		c.again()
	}
}

// resumeRaw lets the socket read again, unless the user does not want it.
func (c *tlsConn) resumeRaw() {
	if !c.paused {
		c.raw.Resume()
	}
}

// CloseWrite sends close_notify and FIN.
func (c *tlsConn) CloseWrite() {
	c.notify()
	c.raw.CloseWrite()
}

// Finish closes after all is written, close_notify included.
func (c *tlsConn) Finish() {
	c.notify()
	c.close()
	c.raw.Finish()
}

func (c *tlsConn) notify() {
	if c.state == tlsOpen || c.state == tlsEnded && !c.gone {
		c.encrypt(nil)
		_ = c.conn.CloseWrite() // an error: it was sent before, or the handshake failed
		c.wire.flush()
	}
}

func (c *tlsConn) Close() {
	c.close()
	c.raw.Close()
}

// close lets go of what the connection holds; a handshake is given up.
func (c *tlsConn) close() {
	if c.state == tlsShaking {
		c.wire.fail(net.ErrClosed)
	}
	c.state = tlsClosed
	if c.plain != nil {
		c.thread.loop.Recycle(c.plain)
		c.plain = nil
	}
}

// moveTo gives an idle connection to another thread, on whose loop raw is.
func (c *tlsConn) moveTo(t *thread, raw *loop.Conn, u loop.User) {
	c.thread, c.raw = t, raw
	c.Use(u)
	raw.Use(c)
}

// security describes an open connection.
func (c *tlsConn) security() *security {
	s := c.conn.ConnectionState()
	d := &security{ALPN: s.NegotiatedProtocol, ServerName: s.ServerName, Version: s.Version}
	if len(s.PeerCertificates) > 0 {
		d.Subject = s.PeerCertificates[0].Subject.String()
	}
	return d
}
