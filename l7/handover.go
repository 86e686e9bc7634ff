package l7

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// HandedVersion is the version of Handed. A proxy that does not know it refuses
// the connection, which then stays where it is and drains.
const HandedVersion = 1

// The kinds of connections that can be handed over. All else drains: TLS and
// HTTP/2 have state that does not travel.
const (
	handedHTTP1  = "http1"  // plain, between two requests
	handedTunnel = "tunnel" // after a 101
	handedTCP    = "tcp"
)

// Handed is a live connection on its way to another process: all there is to
// know about it, and its sockets.
type Handed struct {
	Version  int            `json:"version"`
	Kind     string         `json:"kind"`
	Listener string         `json:"listener"`
	Client   netip.AddrPort `json:"client"`
	Local    netip.AddrPort `json:"local"`
	Served   uint32         `json:"served,omitempty"` // requests so far
	Unread   []byte         `json:"unread,omitempty"` // of the next request, or of several
	Unsent   []byte         `json:"unsent,omitempty"` // to the client

	// Of those that are joined with a backend's connection.
	Pool      string        `json:"pool,omitempty"`
	Backend   string        `json:"backend,omitempty"`
	UnsentFar []byte        `json:"unsent_far,omitempty"` // to the backend
	Idle      time.Duration `json:"idle,omitempty"`       // the silence that ends it
	Began     time.Time     `json:"began,omitzero"`
	In        int64         `json:"in,omitempty"` // bytes so far
	Out       int64         `json:"out,omitempty"`

	FDs []int `json:"-"` // the client's socket, then the backend's

	backend *Backend // the giver's, who may get it back
	stays   bool     // nobody takes it
}

// Export makes the threads give away what can be handed over: what there is now,
// and each connection that comes as far later. give must not block; it owns the
// sockets. Each connection counts here until Gave. Export(nil) ends it: who
// drains then drains.
func (p *Proxy) Export(give func(Handed)) {
	p.each(func(t *thread) {
		t.give = give
		switch {
		case give != nil:
			t.clients.each(func(c clientConn) { t.offer(c) })
		case t.leaving:
			t.clients.each(clientConn.drain)
		}
	})
}

// Gave counts connections out that somebody else has now.
func (p *Proxy) Gave(n int) {
	for range n {
		p.clientGone()
	}
}

// Accepts reports why Import would refuse a connection now; it touches nothing
// of it.
func (p *Proxy) Accepts(h Handed) error {
	v := p.view.Load()
	if v == nil {
		return fmt.Errorf("nothing is served yet")
	}
	return v.accepts(&h)
}

// Import goes on with a connection. After an error its sockets are the caller's.
func (p *Proxy) Import(h Handed) error {
	if err := p.Accepts(h); err != nil {
		return err
	}
	p.connections.Add(1)
	h.backend, h.stays = nil, false
	t := p.threads[int(p.imported.Add(1))%len(p.threads)]
	t.loop.Post(func() { t.adopt(&h) })
	return nil
}

// TakeBack goes on with a connection that was given away and that nobody took,
// whatever became of its listener or backend meanwhile. It is not given away
// again, and was never counted out.
func (p *Proxy) TakeBack(h Handed) {
	h.stays = true
	t := p.threads[int(p.imported.Add(1))%len(p.threads)]
	t.loop.Post(func() { t.adopt(&h) })
}

// accepts reports why a connection cannot be gone on with.
func (v *view) accepts(h *Handed) error {
	l := v.listeners[h.Listener]
	sockets := 2
	switch {
	case h.Version != HandedVersion:
		return fmt.Errorf("a connection of version %d; this lbd knows %d", h.Version, HandedVersion)
	case l == nil:
		return fmt.Errorf("there is no listener %q", h.Listener)
	case h.Kind == handedHTTP1 && l.config.Protocol == lb.ListenHTTP:
		sockets = 1
	case h.Kind != handedTunnel && h.Kind != handedTCP:
		return fmt.Errorf("a connection of kind %q on listener %s", h.Kind, h.Listener)
	case v.backend(h) == nil:
		return fmt.Errorf("there is no backend %s in pool %q", h.Backend, h.Pool)
	}
	if len(h.FDs) != sockets {
		return fmt.Errorf("%d sockets for a connection of kind %s", len(h.FDs), h.Kind)
	}
	for _, fd := range h.FDs {
		if err := loop.NonBlocking(fd); err != nil {
			return err
		}
	}
	return nil
}

func (v *view) backend(h *Handed) *Backend {
	p := v.byName[h.Pool]
	if p == nil {
		return nil
	}
	i := slices.IndexFunc(p.Backends, func(b *Backend) bool { return b.Address() == h.Backend })
	if i < 0 {
		return nil
	}
	return p.Backends[i]
}

// adopt makes a connection of h.
func (t *thread) adopt(h *Handed) {
	c := &client{door: &door{proxy: t.proxy, listener: h.Listener, open: t.proxy.openBy(h.Listener), scheme: "http", local: h.Local}, peer: h.Client}
	c.open.Add(1)
	c.proxy.crowd.add(c.peer.Addr(), 0)
	if h.Kind == handedHTTP1 {
		t.adoptH1(h, c)
		return
	}
	t.adoptJoined(h, c)
}

func (t *thread) adoptH1(h *Handed, c *client) {
	s := &serverH1{thread: t, client: c, served: h.Served, noPreface: h.Served > 0, settled: h.stays}
	if err := s.conn.Init(t.loop, h.FDs[0], s); err != nil {
		c.gone()
		return
	}
	s.t = &s.conn
	t.clients.add(s)
	t.loop.Set(&s.timer, s.keepAlive(), s)
	s.conn.Write(h.Unsent)
	if len(h.Unread) > 0 {
		s.Received(h.Unread)
	}
	if t.give != nil && s.state != serverClosed {
		t.loop.Later(s)
	}
}

// adoptJoined goes on with two connections that are one. It may be a tunnel's
// end, too: bytes both ways are all that is left of it.
func (t *thread) adoptJoined(h *Handed, c *client) {
	v, b := t.proxy.view.Load(), h.backend
	if b == nil {
		b = v.backend(h)
	}
	if b == nil { // gone since Import looked
		unix.Close(h.FDs[0])
		unix.Close(h.FDs[1])
		c.gone()
		return
	}
	p := &tcpProxy{thread: t, client: c, view: v, pool: b.pool, backend: b, tunnel: h.Kind == handedTunnel, settled: h.stays, idle: h.Idle,
		began: t.loop.Now() - time.Since(h.Began)}
	p.near = tcpEnd{proxy: p, other: &p.far, taken: h.In}
	p.far = tcpEnd{proxy: p, other: &p.near, taken: h.Out}
	if err := p.near.conn.Init(t.loop, h.FDs[0], &p.near); err != nil {
		unix.Close(h.FDs[1])
		c.gone()
		return
	}
	if err := p.far.conn.Init(t.loop, h.FDs[1], &p.far); err != nil {
		p.near.conn.Close()
		c.gone()
		return
	}
	b.load.begin()
	b.endpoint.open.Add(1)
	t.clients.add(p)
	p.near.conn.Write(h.Unsent)
	p.far.conn.Write(h.UnsentFar)
	p.quiet()
	if t.give != nil {
		t.loop.Later(p)
	}
}

// mover is a connection that may be able to be handed over.
type mover interface{ move() bool }

// offer gives a connection away if that is asked for and possible.
func (t *thread) offer(c clientConn) bool {
	m, ok := c.(mover)
	return ok && t.give != nil && m.move()
}

// handed is what both kinds of connections say of their client, who is no
// longer the listener's here.
func (c *client) handed(kind string) Handed {
	c.open.Add(-1)
	c.proxy.crowd.remove(c.peer.Addr())
	return Handed{Version: HandedVersion, Kind: kind, Listener: c.listener, Client: c.peer, Local: c.local}
}

// stays reports whether the connection cannot be handed over at all.
func (s *serverH1) stays() bool { return s.t != &s.conn || s.settled }

// move gives the connection away between two requests, or as a tunnel.
func (s *serverH1) move() bool {
	if s.stays() || !s.conn.Movable() || s.consuming {
		return false
	}
	switch {
	case s.state == serverHead && (s.turn == nil || s.turn.x == nil) && !s.closeNext && !s.failed && !s.aborted:
		s.moveIdle()
		return true
	case s.state == serverTunnel && s.turn.x != nil:
		return s.moveTunnel(s.turn.x)
	}
	return false
}

func (s *serverH1) moveIdle() {
	h := s.client.handed(handedHTTP1)
	h.Served = s.served
	if s.turn != nil {
		h.Unread = slices.Clone(s.turn.head)
	}
	if s.held != nil {
		h.Unread = append(h.Unread, *s.held...)
	}
	s.give(h)
	s.forget()
}

// give takes the connection out of the loop and gives it away.
func (s *serverH1) give(h Handed) {
	s.state = serverClosed
	fd, unsent := s.conn.HandOver()
	h.Unsent, h.FDs = unsent, append([]int{fd}, h.FDs...)
	s.thread.give(h)
}

// forget takes the connection out of the books. Its client still counts: until
// leave, or until it is certain that the connection is somebody else's.
func (s *serverH1) forget() {
	s.release()
	s.thread.loop.Stop(&s.timer)
	if s.turn != nil {
		s.thread.turns.put(s.turn)
		s.turn = nil
	}
	s.thread.clients.remove(s)
}

// moveTunnel gives both ends away. Here the request is over, and its line is
// written; done forgets the connection.
func (s *serverH1) moveTunnel(x *exchange) bool {
	c, ok := x.up.(*clientH1)
	if !ok || c.t != &c.conn || c.state != clientTunnel || !c.conn.Movable() || x.suspended || x.over {
		return false
	}
	h := s.client.handed(handedTunnel)
	h.Pool, h.Backend, h.backend = x.session.Pool.Name(), x.session.Backend.Address(), x.session.Backend
	h.Idle, h.Began = x.session.Route.Config.Timeout.Tunnel, x.session.Start
	h.In, h.Out = x.bytesIn, x.bytesOut
	fd, unsent := c.conn.HandOver()
	c.state = clientClosed
	c.endpoint.open.Add(-1)
	c.detach()
	h.UnsentFar = unsent
	if s.held != nil {
		h.UnsentFar = append(h.UnsentFar, *s.held...)
	}
	h.FDs = []int{fd}
	s.give(h)
	x.gone()
	x.finish(nil)
	return true
}

// move gives both connections away.
func (p *tcpProxy) move() bool {
	if p.over || p.settled || p.queued != nil || p.backend == nil || !p.near.conn.Movable() || !p.far.conn.Movable() {
		return false
	}
	kind := handedTCP
	if p.tunnel {
		kind = handedTunnel
	}
	h := p.client.handed(kind)
	h.Pool, h.Backend, h.backend = p.pool.Name(), p.backend.Address(), p.backend
	h.Idle, h.Began = p.idle, p.thread.loop.At(p.began)
	h.In, h.Out = p.near.taken, p.far.taken
	near, unsent := p.near.conn.HandOver()
	far, unsentFar := p.far.conn.HandOver()
	h.Unsent, h.UnsentFar, h.FDs = unsent, unsentFar, []int{near, far}
	p.over = true
	p.thread.loop.Stop(&p.timer)
	p.letGo()
	p.thread.clients.remove(p)
	p.thread.give(h)
	return true
}

// RunLater gives away what has just been joined.
func (p *tcpProxy) RunLater() { p.thread.offer(p) }
