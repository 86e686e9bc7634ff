package l7

import (
	"errors"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h2"
	"github.com/cirque-lb/lb/l7/loop"
)

// clientH2 is an HTTP/2 connection to a backend. It belongs to one loop, which
// sends over it as many requests at once as the backend takes; another one is
// opened when they are more.
type clientH2 struct {
	socket   loop.Conn
	t        transport // &socket, or TLS over it
	thread   *thread
	endpoint *endpoint
	group    *groupH2
	limits   *lb.PoolLimits

	conn     *h2.Conn     // nil until connected
	ready    bool         // the backend's SETTINGS came
	waiting  []*requestH2 // until then
	reserved int          // requests that are about to open a stream
	failed   []*requestH2 // whose exchange is to be told

	timer    loop.Timer
	born     time.Duration
	maxAge   time.Duration
	quiet    time.Duration // since when there are no streams
	heard    time.Duration // when something came
	asked    time.Duration // when a PING went out that is not answered, 0 without
	soiled   bool
	closed   bool
	pausedIn bool
}

// h2Waiting is how many requests wait for one connection to be made.
const h2Waiting = 100

// groupH2 is a thread's connections to one backend.
type groupH2 struct {
	conns   []*clientH2
	streams int // at once, that the backend took on its newest connection
}

// connectH2 is connect for backends that speak HTTP/2.
func (t *thread) connectH2(x *exchange, b *Backend) (upstream, bool, *Error) {
	c, err := t.roomH2(b.endpoint, &b.pool.Config.Connections)
	if err != nil {
		return nil, false, err
	}
	r := c.request(x)
	if c.ready {
		t.counts.reuses.Add(1)
		r.reserve()
	} else {
		r.enqueue()
	}
	return r, c.ready, nil
}

// roomH2 finds a connection to e that takes one more request, or makes it.
func (t *thread) roomH2(e *endpoint, limits *lb.PoolLimits) (*clientH2, *Error) {
	g := t.h2.groups[e]
	if g == nil {
		g = &groupH2{streams: h2Waiting}
		t.h2.groups[e] = g
	}
	for _, c := range g.conns {
		if c.room() > 0 {
			return c, nil
		}
	}
	if e.open.Load() >= int64(limits.PerBackend) {
		return nil, &Error{Status: 503, Reason: lb.Overload, kind: failedConnect}
	}
	c, err := t.dialH2(e, limits, g)
	if err != nil {
		return nil, dialError(err)
	}
	return c, nil
}

func (t *thread) dialH2(e *endpoint, limits *lb.PoolLimits, g *groupH2) (*clientH2, error) {
	now := t.loop.Now()
	c := &clientH2{thread: t, endpoint: e, group: g, limits: limits, born: now, heard: now, quiet: now}
	c.maxAge = jittered(limits.MaxAge)
	to := e.remote
	to.Known = true // one connection serves many
	if err := c.socket.Dial(t.loop, to, c); err != nil {
		return nil, err
	}
	c.t = &c.socket
	e.open.Add(1)
	t.counts.dials.Add(1)
	g.conns = append(g.conns, c)
	t.loop.Set(&c.timer, limits.ConnectTimeout, c)
	return c, nil
}

// room is how many more requests the connection takes.
func (c *clientH2) room() int {
	if !c.ready {
		return min(h2Waiting, c.group.streams) - len(c.waiting)
	}
	return c.conn.Available() - c.reserved
}

// Connected: there is a connection for those that wait, or not.
func (c *clientH2) Connected(err error) {
	switch {
	case err != nil:
		c.fail(dialError(err))
	case c.endpoint.secure != nil:
		c.secure()
	default:
		c.begin()
	}
}

// begin speaks HTTP/2 on a connection that is there. Requests wait on until the
// backend's SETTINGS say how many it takes: that is a round trip once, and
// spares refused streams.
func (c *clientH2) begin() {
	c.conn = h2.New(&h2.Config{Client: true}, c)
	c.soil()
}

// settle serves those that wait. What is over the backend's limit goes to
// another connection.
func (c *clientH2) settle() {
	if c.conn.Available() == 0 { // another connection would meet the same
		c.fail(&Error{Status: 503, Source: FromUpstream, Reason: lb.Overload, Err: h2.ErrNoStream, kind: failedRefused})
		return
	}
	c.ready = true
	c.quiet = c.thread.loop.Now()
	c.group.streams = c.conn.Available()
	waiting := c.waiting
	c.waiting = nil
	taken := min(len(waiting), c.room())
	for _, r := range waiting[:taken] {
		r.reserve()
	}
	for _, r := range waiting[taken:] {
		r.move()
	}
	for _, r := range waiting[:taken] {
		if r.waits { // not given up meanwhile
			r.waits = false
			r.x.connected()
		}
	}
	c.wait()
}

// secure is TLS's part of connecting.
func (c *clientH2) secure() {
	c.t = c.endpoint.secure.start(c.thread, &c.socket, c, func(err error) {
		if err != nil {
			c.fail(tlsError(err))
			return
		}
		c.begin()
	})
}

// fail ends a connection that could not be made.
func (c *clientH2) fail(e *Error) {
	waiting := c.waiting
	c.waiting = nil
	c.close()
	for _, r := range waiting {
		if x := r.detach(); x != nil {
			x.upstreamFailed(e)
		}
	}
}

// Head is h2's: a response.
func (c *clientH2) Head(s *h2.Stream, h *h2.Head, end bool) {
	r := s.Owner.(*requestH2)
	if r.x == nil {
		return
	}
	if h.TooLarge {
		x := r.detach()
		r.endStream(h2.Cancel)
		x.upstreamFailed(responseError(errors.New("response's head is over the limit")))
		r.put()
		return
	}
	res := &r.x.response
	header := res.Header[:0]
	for _, f := range h.Fields {
		if f.Name != "content-length" {
			header = append(header, Field(f))
		}
	}
	if h.Status < 200 {
		r.x.upstreamInfo(h.Status, header)
		res.Header = header
		return
	}
	r.answered = true
	*res = Response{Status: h.Status, Version: HTTP20, Header: header, Length: h.Length}
	if r.tunnel == tunnelAsked && h.Status < 300 {
		r.openTunnel()
		r.x.upstreamHead(res, false)
		return
	}
	if !end {
		r.x.upstreamHead(res, false)
		return
	}
	r.whole(func(x *exchange) { x.upstreamHead(res, true) })
}

// Data is h2's.
func (c *clientH2) Data(s *h2.Stream, p []byte, end bool) {
	r := s.Owner.(*requestH2)
	switch {
	case r.x == nil:
	case r.tunnel == tunnelOpen:
		r.x.upstreamBody(p, end) // end is one direction's
	case end:
		r.whole(func(x *exchange) { x.upstreamBody(p, true) })
	default:
		r.x.upstreamBody(p, false)
	}
}

// Trailers is h2's.
func (c *clientH2) Trailers(s *h2.Stream, fields []h2.Field) {
	r := s.Owner.(*requestH2)
	if r.x == nil {
		return
	}
	h := make(Header, len(fields))
	for i, f := range fields {
		h[i] = Field(f)
	}
	r.whole(func(x *exchange) { x.upstreamTrailers(h) })
}

// StreamDrained is h2's.
func (c *clientH2) StreamDrained(s *h2.Stream) {
	if r := s.Owner.(*requestH2); r.x != nil {
		r.x.upstreamDrained()
	}
}

// Closed is h2's.
func (c *clientH2) Closed(s *h2.Stream, err error) {
	r := s.Owner.(*requestH2)
	r.s = nil
	c.closedOne()
	if x := r.detach(); x != nil {
		x.upstreamFailed(r.lost(err))
	}
	r.put()
}

// Refused is for servers.
func (c *clientH2) Refused(uint32, *h2.Head, *h2.StreamError) {}

// closedOne notes that a stream is gone.
func (c *clientH2) closedOne() {
	if c.conn.Streams() == 0 {
		c.quiet = c.thread.loop.Now()
		c.wait()
	}
}

// Received is the transport's.
func (c *clientH2) Received(p []byte) {
	if c.closed || c.conn == nil {
		return
	}
	c.heard = c.thread.loop.Now()
	err := c.conn.Receive(p, c.heard)
	switch {
	case c.ready:
	case err != nil:
		c.fail(&Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamProtocol, Err: err, kind: failedConnect})
		return
	case c.conn.Settled():
		c.settle()
	}
	c.soil() // flush ends the connection when it is Done
}

// Drained is the transport's.
func (c *clientH2) Drained() { c.flush() }

// Ended is the transport's.
func (c *clientH2) Ended(err error) {
	if !c.ready {
		c.fail(&Error{Status: 502, Source: FromUpstream, Reason: lb.ConnectFailed, Err: err, kind: failedConnect})
		return
	}
	c.close()
	c.conn.Fail(err)
}

// soil makes sure that the turn's end writes.
func (c *clientH2) soil() {
	if !c.soiled {
		c.soiled = true
		c.thread.loop.Later(c)
	}
}

// RunLater tells who failed within a call of theirs, and writes.
func (c *clientH2) RunLater() {
	c.soiled = false
	failed := c.failed
	c.failed = nil
	for _, r := range failed {
		e := r.failure
		r.failure = nil
		if x := r.detach(); x != nil {
			x.upstreamFailed(e)
		}
		r.put()
	}
	c.flush()
}

// flush hands output to the transport as far as the kernel keeps up.
func (c *clientH2) flush() {
	if c.closed || c.conn == nil {
		return
	}
	for c.t.Buffered() < h2Ahead {
		out := c.conn.Output()
		if len(out) == 0 {
			break
		}
		c.t.Write(out)
		c.conn.Advance(len(out))
	}
	if c.conn.Done() && c.reserved == 0 {
		c.finish()
		return
	}
	if full := c.conn.Congested(); full != c.pausedIn {
		c.pausedIn = full
		if full {
			c.t.Pause()
		} else {
			c.t.Resume()
		}
	}
}

// wait sets the timer to when there is something to look at.
func (c *clientH2) wait() {
	if c.closed {
		return
	}
	d := c.thread.h2.times.check
	if c.conn.Streams() == 0 {
		now := c.thread.loop.Now()
		d = max(0, min(c.quiet+c.limits.IdleTimeout, c.born+c.maxAge)-now)
	}
	c.thread.loop.Set(&c.timer, d, c)
}

// errUnheard ends a connection whose backend does not answer a PING.
var errUnheard = errors.New("backend does not answer")

// Expired looks at what takes too long. A connection that is not made in time is
// given up, for those who come meanwhile would wait for it, too, without end.
func (c *clientH2) Expired(*loop.Timer) {
	if !c.ready {
		c.fail(&Error{Status: 504, Source: FromUpstream, Reason: lb.ConnectTimeout, kind: failedConnect})
		return
	}
	now := c.thread.loop.Now()
	if now-c.born >= c.maxAge || c.conn.Streams() == 0 && now-c.quiet >= c.limits.IdleTimeout {
		c.conn.Drain() // no more requests; Done when those that run have ended
	}
	c.dropStalled(now)
	if c.conn.Streams() > 0 && !c.alive(now) {
		c.close()
		c.conn.Fail(errUnheard)
		return
	}
	c.soil()
	c.wait()
}

// alive asks a backend that has been silent for long.
func (c *clientH2) alive(now time.Duration) bool {
	switch unheard := c.thread.h2.times.unheard; {
	case now-c.heard < unheard:
		c.asked = 0
	case c.asked == 0:
		c.asked = now
		c.conn.Ping()
	case now-c.asked >= unheard:
		return false
	}
	return true
}

// dropStalled ends the requests whose backend gives no window for their bodies.
func (c *clientH2) dropStalled(now time.Duration) {
	c.conn.Each(func(s *h2.Stream) {
		r := s.Owner.(*requestH2)
		if s.Buffered() == 0 || s.Sent() != r.sent {
			r.sent, r.stalled = s.Sent(), now
			return
		}
		if now-r.stalled < c.thread.h2.times.stall {
			return
		}
		x := r.detach()
		r.endStream(h2.Cancel)
		if x != nil {
			x.upstreamFailed(r.lost(loop.ErrStalled))
		}
		r.put()
	})
}

// finish closes after all is written.
func (c *clientH2) finish() {
	if c.forget() {
		c.t.Finish()
	}
}

// close closes now. The streams are told by conn.Fail.
func (c *clientH2) close() {
	if c.forget() {
		c.t.Close()
	}
}

// forget takes the connection out of the books, once.
func (c *clientH2) forget() bool {
	if c.closed {
		return false
	}
	c.closed = true
	c.thread.loop.Stop(&c.timer)
	c.endpoint.closed(c.thread)
	g := c.group
	if i := slices.Index(g.conns, c); i >= 0 {
		g.conns = slices.Delete(g.conns, i, i+1)
	}
	if len(g.conns) == 0 && c.thread.h2.groups[c.endpoint] == g {
		delete(c.thread.h2.groups, c.endpoint)
	}
	return true
}
