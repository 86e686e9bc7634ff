package l7

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// proxied reports whether a connection from there begins with a PROXY header:
// from the listed networks always, from others never. Nothing is guessed, or
// anybody could say to be anybody.
func (l *listener) proxied(from netip.Addr) bool {
	if l.config.ProxyProtocol == nil {
		return false
	}
	for _, network := range l.config.ProxyProtocol.From {
		if network.Contains(from) {
			return true
		}
	}
	return false
}

// proxiedConn is a connection whose PROXY header is to come. It takes the
// header out of the socket and not a byte more, so whoever serves the
// connection then finds it as if it had just been accepted.
type proxiedConn struct {
	conn     loop.Conn
	header   proxyHeader
	thread   *thread
	client   *client
	listener *listener
	timer    loop.Timer
	place    int // in thread.clients
}

// serveProxied reads a PROXY header, then serves the connection.
func (t *thread) serveProxied(fd int, c *client, l *listener) {
	p := &proxiedConn{thread: t, client: c, listener: l}
	if err := p.conn.Init(t.loop, fd, p); err != nil {
		c.gone()
		return
	}
	p.conn.Watch(true)
	t.clients.add(p)
	t.loop.Set(&p.timer, t.proxy.times.handshake, p)
}

// Watched is the loop's: bytes, or the connection's end.
func (p *proxiedConn) Watched() {
	peeked := p.thread.loop.Input()[:1<<10]
	n, _, err := unix.Recvfrom(p.conn.FD(), peeked, unix.MSG_PEEK)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0:
		p.refuse(lb.ClientAbort)
		return
	}
	rest, whole, err := p.header.read(peeked[:n])
	if err != nil {
		p.refuse(lb.BadFraming)
		return
	}
	if _, err := unix.Read(p.conn.FD(), peeked[:n-len(rest)]); err != nil {
		p.refuse(lb.ClientAbort)
		return
	}
	if whole {
		p.begin()
	}
}

// begin serves the connection, as the client's that the header names.
func (p *proxiedConn) begin() {
	p.leave()
	if p.header.source.IsValid() {
		if !p.client.cameFrom(p.header.source, p.header.destination) {
			p.thread.countShed(p.client.listener, lb.ClientLimit)
			p.conn.Close()
			p.client.gone()
			return
		}
	}
	p.thread.serve(p.conn.Release(), p.client, p.listener)
}

// refuse closes a connection that does not begin as it must. There is nobody
// to be told why: who connects is no client, but a balancer of our own.
func (p *proxiedConn) refuse(reason lb.Reason) {
	p.thread.tally.event("lbd_proxy_protocol_failures_total", "listener", p.client.listener, "reason", string(reason))
	p.cut()
}

func (p *proxiedConn) leave() {
	p.thread.loop.Stop(&p.timer)
	p.thread.clients.remove(p)
}

// Expired: the header takes too long.
func (p *proxiedConn) Expired(*loop.Timer) { p.refuse(lb.ClientTimeout) }

func (p *proxiedConn) drain() {} // its first response will say it

func (p *proxiedConn) from() netip.AddrPort { return p.client.peer }

func (p *proxiedConn) cut() {
	p.leave()
	p.conn.Close()
	p.client.gone()
}

func (p *proxiedConn) index() *int { return &p.place }

func (p *proxiedConn) whose() *client { return p.client }

// Received is loop.User's, as what follows: the socket is only watched.
func (p *proxiedConn) Received([]byte) {}

// Ended is a dead socket's, should the loop find it so.
func (p *proxiedConn) Ended(error) { p.refuse(lb.ClientAbort) }

// Drained has nothing to wait for.
func (p *proxiedConn) Drained() {}
