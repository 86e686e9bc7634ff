package l7

import (
	"io"
	"net/netip"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// maxTCPAttempts bounds how many backends are tried for a client.
const maxTCPAttempts = 2

// tcpProxy joins a client's connection with one to a backend: bytes both ways,
// and each side's end, too.
type tcpProxy struct {
	thread  *thread
	client  *client
	pool    *Pool
	view    *view
	backend *Backend
	tried   []int
	queued  *queue // where it waits for room at its backend; nil: it does not
	dialed  time.Duration
	near    tcpEnd // the client's
	far     tcpEnd // the backend's
	timer   loop.Timer
	place   int // in thread.clients
	began   time.Duration
	over    bool
	tunnel  bool          // it began as a request, whose line is written
	settled bool          // it was offered to another process, which refused
	idle    time.Duration // the silence that ends it
}

// tcpEnd is one of the two connections.
type tcpEnd struct {
	conn  loop.Conn
	proxy *tcpProxy
	other *tcpEnd
	taken int64 // bytes received
	ended bool  // it says no more
}

// serveTCP joins a client with a backend of the listener's pool.
func (t *thread) serveTCP(fd int, c *client, l *listener) {
	p := &tcpProxy{thread: t, client: c, view: t.proxy.view.Load(), pool: l.pool, began: t.loop.Now(), idle: l.config.IdleTimeout}
	p.near = tcpEnd{proxy: p, other: &p.far}
	p.far = tcpEnd{proxy: p, other: &p.near}
	if err := p.near.conn.Init(t.loop, fd, &p.near); err != nil {
		c.gone()
		return
	}
	p.near.conn.Pause()
	t.clients.add(p)
	p.connect()
}

// connect dials the next backend, or waits for room at it; Connected follows.
func (p *tcpProxy) connect() {
	e := &Error{Source: FromUpstream, Reason: lb.ConnectFailed}
	for len(p.tried) < maxTCPAttempts {
		b := p.view.pick(p.thread, p.pool, p, &p.tried)
		if b == nil {
			p.end(&Error{Reason: lb.NoHealthyBackend})
			return
		}
		p.backend = b
		if b.endpoint.queues[p.thread.index].count.Load() == 0 && p.room() {
			if e = p.dial(); e == nil {
				return
			}
			if e.Reason != lb.ConnectFailed { // it is not the backend: another one would meet the same
				p.end(e)
				return
			}
			continue
		}
		if p.queued = p.thread.enqueue(p, b); p.queued != nil {
			p.thread.loop.Set(&p.timer, p.pool.Config.Connections.ConnectTimeout, p)
			return
		}
		p.backend, e = nil, &Error{Reason: lb.Overload}
	}
	p.end(e)
}

// room reports whether the backend may have one more connection.
func (p *tcpProxy) room() bool {
	b := p.backend
	return b.hasRoom() && b.endpoint.open.Load() < int64(p.pool.Config.Connections.PerBackend)
}

// dial starts to connect to the backend, if that is possible at all.
func (p *tcpProxy) dial() *Error {
	b := p.backend
	b.load.begin()
	p.dialed = p.thread.loop.Now()
	if err := p.far.conn.Dial(p.thread.loop, b.endpoint.remote, &p.far); err != nil {
		e := dialError(err)
		if e.Reason == lb.ConnectFailed {
			p.failed()
		}
		b.load.end()
		p.backend = nil
		return e
	}
	b.endpoint.open.Add(1)
	p.thread.loop.Set(&p.timer, p.pool.Config.Connections.ConnectTimeout, p)
	return nil
}

// waitsAt and tryAgain make it a waiter.
func (p *tcpProxy) waitsAt() *endpoint { return p.backend.endpoint }

func (p *tcpProxy) tryAgain() bool {
	if !p.room() {
		return false
	}
	p.leaveQueue("served")
	switch e := p.dial(); {
	case e == nil:
	case e.Reason == lb.ConnectFailed:
		p.connect()
	default:
		p.end(e)
	}
	return true
}

func (p *tcpProxy) leaveQueue(outcome string) {
	p.queued.leave(p, p.backend, outcome)
	p.queued = nil
	p.thread.loop.Stop(&p.timer)
}

// key: a connection has nothing but its client to go by.
func (p *tcpProxy) key(c *lb.HashKey) (uint64, bool) {
	if c != nil && !c.Client {
		return 0, false
	}
	return addressKey(p.client.peer.Addr()), true
}

// failed counts a backend that could not be connected to.
func (p *tcpProxy) failed() {
	b, now := p.backend, p.thread.loop.Now()
	b.load.failed()
	b.heard(now, max(now-p.dialed, failureLatency))
	b.judge(p.thread, true)
}

// Connected joins the two ends, or goes on to another backend.
func (e *tcpEnd) Connected(err error) {
	p := e.proxy
	p.thread.loop.Stop(&p.timer)
	if err != nil {
		p.failed()
		p.letGo()
		p.connect()
		return
	}
	now := p.thread.loop.Now()
	p.backend.heard(now, now-p.dialed) // of a connection that is all there is to go by
	p.backend.judge(p.thread, false)
	if p.pool.Config.ProxyProtocol != "" {
		p.far.conn.Write(appendProxyHeader(nil, p.client.peer, p.client.local))
	}
	p.near.conn.Resume()
	p.quiet()
	if p.thread.give != nil {
		p.thread.loop.Later(p)
	}
}

// quiet begins to wait for silence anew.
func (p *tcpProxy) quiet() { p.thread.loop.Set(&p.timer, p.idle, p) }

// Received passes bytes on, and stops reading while they are not taken.
func (e *tcpEnd) Received(b []byte) {
	p := e.proxy
	e.taken += int64(len(b))
	e.other.conn.Write(b)
	if e.other.conn.Blocked() || e.other.conn.Buffered() > highWater {
		e.conn.Pause()
	}
	if len(b) >= bulk {
		e.conn.Fit(e.other.conn.Room())
	}
	p.quiet()
}

// Drained lets the other side go on.
func (e *tcpEnd) Drained() {
	if !e.other.ended {
		e.other.conn.Resume()
	}
}

// Ended passes a FIN on; anything else ends both.
func (e *tcpEnd) Ended(err error) {
	e.ended = true
	p := e.proxy
	switch {
	case err != io.EOF && e == &p.near:
		p.end(&Error{Source: FromClient, Reason: lb.ClientAbort, Err: err})
	case err != io.EOF:
		p.end(&Error{Source: FromUpstream, Reason: lb.UpstreamReset, Err: err})
	case e.other.ended:
		p.end(nil)
	default:
		e.other.conn.CloseWrite()
	}
}

// Expired: no connection in time, or silence for too long.
func (p *tcpProxy) Expired(*loop.Timer) {
	if p.queued != nil {
		p.leaveQueue("timeout")
		p.backend = nil
		p.end(&Error{Reason: lb.Overload})
		return
	}
	if p.near.taken == 0 && p.far.taken == 0 && p.far.conn.Connecting() {
		p.failed()
		p.far.conn.Close()
		p.letGo()
		p.connect()
		return
	}
	p.end(nil)
}

// letGo counts the backend's connection out.
func (p *tcpProxy) letGo() {
	p.backend.endpoint.closed(p.thread)
	p.backend.load.end()
	p.backend = nil
}

// end closes both sides, after what they still have to write if there is no
// error, and writes the line.
func (p *tcpProxy) end(e *Error) {
	if p.over {
		return
	}
	p.over = true
	p.thread.loop.Stop(&p.timer)
	p.record(e)
	if p.queued != nil { // the client did not wait
		p.leaveQueue("gone")
		p.backend = nil
	}
	if p.backend != nil {
		if e == nil {
			p.far.conn.Finish()
		} else {
			p.far.conn.Close()
		}
		p.letGo()
	}
	if e == nil {
		p.near.conn.Finish()
	} else {
		p.near.conn.Close()
	}
	p.thread.clients.remove(p)
	p.client.gone()
}

// record counts the connection as one request without a status.
func (p *tcpProxy) record(e *Error) {
	if p.tunnel {
		return
	}
	l := p.thread.loop
	o := outcome{start: l.At(p.began), client: p.client.peer, listener: p.client.listener, pool: p.pool.Name(),
		attempts: len(p.tried), bytesIn: p.near.taken, bytesOut: p.far.taken, total: l.Now() - p.began}
	if p.backend != nil {
		o.backend = p.backend.Address()
	}
	if e != nil {
		o.reason, o.source, o.err = e.Reason, e.Source, e.Err
	}
	p.thread.write(&o)
}

// drain leaves the connection alone if nobody else takes it: what it carries has
// no end that we know.
func (p *tcpProxy) drain() { p.thread.offer(p) }

func (p *tcpProxy) from() netip.AddrPort { return p.client.peer }

func (p *tcpProxy) cut() { p.end(&Error{Reason: lb.Draining}) }

func (p *tcpProxy) index() *int { return &p.place }

func (p *tcpProxy) whose() *client { return p.client }
