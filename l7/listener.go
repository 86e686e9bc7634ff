package l7

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// acceptor accepts for one listener on one thread.
type acceptor struct {
	thread   *thread
	listener string
	ln       *loop.Listener
	open     *atomic.Int64 // connections of this listener
	door     *door         // by which the last client came
}

// listen starts to accept on fd, which it owns.
func (t *thread) listen(listener string, fd int) error {
	a := &acceptor{thread: t, listener: listener, open: t.proxy.openBy(listener)}
	ln, err := t.loop.Listen(fd, a)
	if err != nil {
		return fmt.Errorf("accept for listener %s: %w", listener, err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // inherited by what is accepted; no matter on a unix socket
	loop.KeepUnsent(fd)
	a.ln = ln
	t.listeners[fd] = a
	return nil
}

// unlisten ends what listen began.
func (t *thread) unlisten(fd int) {
	if a := t.listeners[fd]; a != nil {
		delete(t.listeners, fd)
		a.ln.Close()
	}
}

// Accepted is the loop's: a new client.
func (a *acceptor) Accepted(fd int, peer netip.AddrPort) {
	t := a.thread
	v := t.proxy.view.Load()
	l := v.listeners[a.listener]
	if l == nil {
		t.counts.refused.Add(1)
		unix.Close(fd)
		return
	}
	if reason := a.admit(v, l, fd, peer); reason != "" {
		a.shed(fd, l, peer, reason)
		return
	}
	t.counts.accepts.Add(1)
	c := &client{door: a.opened(l, fd), peer: peer}
	if l.proxied(peer.Addr()) {
		t.serveProxied(fd, c, l)
		return
	}
	t.serve(fd, c, l)
}

// serve speaks the listener's protocol.
func (t *thread) serve(fd int, c *client, l *listener) {
	switch l.config.Protocol {
	case lb.ListenHTTP:
		t.serveH1(fd, c)
	case lb.ListenHTTPS:
		t.serveTLS(fd, c, l)
	default:
		t.serveTCP(fd, c, l)
	}
}

// opened returns the door that a client of l came by.
func (a *acceptor) opened(l *listener, fd int) *door {
	d := door{proxy: a.thread.proxy, listener: a.listener, open: a.open, scheme: "http", local: l.config.Bind}
	if l.config.Protocol == lb.ListenHTTPS {
		d.scheme = "https"
	}
	if d.local.Addr().IsUnspecified() {
		d.local, _ = loop.LocalAddr(fd)
	}
	if a.door == nil || *a.door != d {
		kept := d // d itself would be made anew for every client
		a.door = &kept
	}
	return a.door
}

// door is what clients have in common that came the same way. It is shared and
// never changes.
type door struct {
	proxy    *Proxy
	listener string
	open     *atomic.Int64 // connections of the listener
	scheme   string
	local    netip.AddrPort
}

// client is who is at the other end of a connection.
type client struct {
	*door
	peer     netip.AddrPort
	security *security // nil: plain
}

// cameFrom believes a PROXY header; false: that client has connections enough.
func (c *client) cameFrom(source, destination netip.AddrPort) bool {
	d := *c.door
	d.local = destination
	c.proxy.crowd.remove(c.peer.Addr())
	c.door, c.peer = &d, source
	if c.proxy.crowd.add(source.Addr(), c.proxy.view.Load().config.Limits.PerClient) {
		return true
	}
	c.proxy.crowd.add(source.Addr(), 0) // until it is gone
	return false
}

// describe fills in what a request says of its client.
func (c *client) describe(r *Request) {
	r.Client, r.Local, r.Listener = c.peer, c.local, c.listener
	if c.security != nil {
		r.ServerName, r.Certificate = c.security.ServerName, c.security.Subject
	}
}

// gone counts the client out.
func (c *client) gone() {
	c.open.Add(-1)
	c.proxy.crowd.remove(c.peer.Addr())
	c.proxy.clientGone()
}

// openBy counts the connections of a listener, whatever becomes of it.
func (p *Proxy) openBy(listener string) *atomic.Int64 {
	n, _ := p.open.LoadOrStore(listener, new(atomic.Int64))
	return n.(*atomic.Int64)
}

// clientConn is a client's connection, as a drain sees it.
type clientConn interface {
	drain()      // tell the client to go; close when idle
	cut()        // close now
	index() *int // its place in the list
	from() netip.AddrPort
	whose() *client
}

// clientList holds a thread's client connections; each knows its place. It is
// kept in pages, so that growing copies nothing and leaves nothing behind.
type clientList struct {
	pages []*[clientPage]clientConn
	n     int
}

const clientPage = 512

func (l *clientList) at(i int) *clientConn { return &l.pages[i/clientPage][i%clientPage] }

func (l *clientList) add(c clientConn) {
	if l.n == len(l.pages)*clientPage {
		l.pages = append(l.pages, new([clientPage]clientConn))
	}
	*c.index() = l.n
	*l.at(l.n) = c
	l.n++
}

func (l *clientList) remove(c clientConn) {
	i, last := *c.index(), l.n-1
	if i > last || *l.at(i) != c {
		return
	}
	moved := *l.at(last)
	*l.at(i), *moved.index() = moved, i
	*l.at(last) = nil
	l.n--
}

// each calls f with every connection there is now; f may remove it.
func (l *clientList) each(f func(clientConn)) {
	for i := l.n - 1; i >= 0; i-- {
		if i < l.n {
			f(*l.at(i))
		}
	}
}
