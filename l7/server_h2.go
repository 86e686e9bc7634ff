package l7

import (
	"errors"
	"net/netip"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
	"github.com/cirque-lb/lb/l7/h2"
	"github.com/cirque-lb/lb/l7/loop"
)

// serverH2 is an HTTP/2 connection of a client. Its streams are downstreams.
// What streams write is gathered in conn and goes out once, late in the turn.
type serverH2 struct {
	t      transport
	thread *thread
	client *client
	conn   *h2.Conn
	timer  loop.Timer
	place  int // in thread.clients

	state    serverState // serverHead while alive, serverLinger, serverClosed
	soiled   bool        // RunLater is due
	paused   bool
	quiet    time.Duration // since when there are no streams
	partial  time.Duration // since when something is begun and not ended, -1 when nothing is
	lingered int
	lingers  uint16 // how often lingering was prolonged
	narrow   int    // streams that began without a window
	still    int    // streams that took nothing between the last two looks
	stuck    int    // the more of both, as the thread knows it
	took     bool   // a response, whole
}

// bulkH2 bounds a read: others wait while what may be thousands of frames are
// looked at.
const bulkH2 = 64 << 10

// h2Ahead is how much is handed to the transport before the kernel took it.
const h2Ahead = 64 << 10

// serveH2 makes an HTTP/2 connection of tr, whose first bytes were seen.
func (t *thread) serveH2(tr transport, cl *client, seen []byte) {
	c := &serverH2{t: tr, thread: t, client: cl, quiet: t.loop.Now(), partial: -1}
	limits := &t.proxy.view.Load().config.Limits
	c.conn = h2.New(&h2.Config{HeaderList: uint32(limits.Head), Fields: limits.Fields, Connect: true}, c)
	tr.Use(c)
	t.clients.add(c)
	c.wait()
	c.Received(seen)
}

// Received is the transport's.
func (c *serverH2) Received(p []byte) {
	switch c.state {
	case serverHead:
		// What is wrong is told by the GOAWAY, which flush follows with the end.
		_ = c.conn.Receive(p, c.thread.loop.Now())
		c.t.Fit(min(2*len(p), bulkH2))
		c.notePartial()
		c.soil()
	case serverLinger:
		if c.lingered += len(p); c.lingered > lingerLimit {
			c.cutOff()
		}
	}
}

// notePartial bounds the time that something may take which is not a body.
func (c *serverH2) notePartial() {
	switch {
	case !c.conn.Partial():
		c.partial = -1
	case c.partial < 0:
		c.partial = c.thread.loop.Now()
		c.wait()
	}
}

// soil makes sure that the turn's end writes.
func (c *serverH2) soil() {
	if !c.soiled && c.state == serverHead {
		c.soiled = true
		c.thread.loop.Later(c)
	}
}

// RunLater writes what the streams said in this turn.
func (c *serverH2) RunLater() {
	c.soiled = false
	c.flush()
}

// flush hands output to the transport as far as the kernel keeps up, stops
// reading from a client that makes us say more than it takes, and ends what is
// over.
func (c *serverH2) flush() {
	if c.state != serverHead {
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
	if c.conn.Done() {
		c.startLinger()
		return
	}
	if full := c.conn.Congested(); full != c.paused {
		c.paused = full
		if full {
			c.t.Pause()
		} else {
			c.t.Resume()
		}
	}
}

// Drained is the transport's.
func (c *serverH2) Drained() { c.flush() }

// Ended is the transport's. A client that says FIN takes no answers either: it
// could not give us window for them.
func (c *serverH2) Ended(err error) {
	c.conn.Fail(err)
	c.cutOff()
}

// Head is h2's: a request.
func (c *serverH2) Head(s *h2.Stream, h *h2.Head, end bool) {
	if c.thread.draining(c.client) {
		c.conn.Drain() // unless it does already
	}
	if c.conn.Streams() == 1 {
		c.wait()
	}
	st := c.stream()
	st.s, s.Owner = s, st
	st.stalled = c.thread.loop.Now()
	e := st.take(h)
	if end && st.request.Length < 0 && st.tunnel == noTunnel {
		st.request.Length = 0
	}
	st.x = c.thread.exchange(st)
	if e != nil {
		st.keepRefused(e)
		st.x.refuse(&st.request, e)
		return
	}
	if st.noteWindow(); c.stingy() {
		st.refuseStingy()
		return
	}
	st.x.begin(&st.request, end || st.tunnel != noTunnel)
}

// Data is h2's.
func (c *serverH2) Data(s *h2.Stream, p []byte, end bool) {
	st := s.Owner.(*streamH2)
	switch {
	case st.x == nil:
	case st.tunnel == tunnelAsked:
		st.endStream(h2.ProtocolError) // there is nobody yet to speak to
		c.conn.Blame()
		st.x.clientFailed(&Error{Status: 400, Source: FromClient, Reason: lb.BadRequest, Err: errEarlyTunnel})
	default:
		st.x.requestBody(p, end)
	}
}

// Trailers is h2's.
func (c *serverH2) Trailers(s *h2.Stream, fields []h2.Field) {
	st := s.Owner.(*streamH2)
	if st.x == nil {
		return
	}
	h := make(Header, 0, len(fields))
	for _, f := range fields {
		if h1.CheckTrailer(f.Name) {
			h = append(h, Field(f))
		}
	}
	st.x.requestTrailers(h)
}

// StreamDrained is h2's.
func (c *serverH2) StreamDrained(s *h2.Stream) {
	if st := s.Owner.(*streamH2); st.x != nil {
		st.x.clientDrained()
	}
}

// Closed is h2's.
func (c *serverH2) Closed(s *h2.Stream, err error) {
	st := s.Owner.(*streamH2)
	st.s = nil
	st.closed()
	c.took = c.took || err == nil
	if st.x == nil {
		c.put(st)
		return
	}
	st.x.clientFailed(streamFault(err))
}

// Refused is h2's: a request that the codec reset is logged like any other.
func (c *serverH2) Refused(_ uint32, h *h2.Head, err *h2.StreamError) {
	st := c.stream()
	_ = st.take(h)
	e := streamFault(err)
	if e.Reason == lb.BadFraming {
		e.Reason = lb.BadRequest
	}
	st.keepRefused(e)
	st.x = c.thread.exchange(st)
	st.x.giveUp(&st.request, e)
}

func (c *serverH2) stream() *streamH2 {
	st := c.thread.h2.streams.get()
	st.c = c
	return st
}

// put takes a stream back that nobody points to any more.
func (c *serverH2) put(st *streamH2) { c.thread.h2.streams.put(st) }

// wait sets the timer to when there is something to look at.
func (c *serverH2) wait() {
	if c.state != serverHead {
		return
	}
	l := c.thread.loop
	times := &c.thread.h2.times
	d := times.check
	if c.conn.Streams() == 0 {
		d = c.quiet + times.idle - l.Now()
	}
	if c.partial >= 0 {
		d = min(d, c.partial+c.thread.proxy.times.head-l.Now())
	}
	switch {
	case c.conn.GoingAway():
		d = min(d, times.drain)
	case c.thread.leaving:
		d = min(d, c.quiet+c.thread.grace-l.Now())
	}
	l.Set(&c.timer, max(d, loop.Tick), c)
}

// Expired looks at what takes too long.
func (c *serverH2) Expired(*loop.Timer) {
	now := c.thread.loop.Now()
	switch {
	case c.state == serverLinger && c.t.Buffered() > 0: // a slow client; the loop knows when it is too slow
		c.thread.loop.Set(&c.timer, c.thread.proxy.times.linger, c)
		return
	case c.state == serverLinger && (c.thread.lingerOn(c.t, &c.lingers) || c.awaitsEnd()):
		c.thread.loop.Set(&c.timer, c.thread.proxy.times.linger, c)
		return
	case c.state == serverLinger:
		c.cutOff()
		return
	case c.partial >= 0 && now-c.partial >= c.thread.proxy.times.head,
		c.conn.Streams() == 0 && now-c.quiet >= c.thread.h2.times.idle:
		c.conn.Close(h2.NoError)
	case c.conn.GoingAway():
		c.conn.DrainNow()
	case c.thread.leaving && now-c.quiet >= c.thread.grace:
		c.conn.Drain()
	}
	c.dropStalled(now)
	c.soil()
	c.wait()
}

// dropStalled ends the streams whose client gives no window for what waits, or
// so little that it comes to less than limits.body_rate.
func (c *serverH2) dropStalled(now time.Duration) {
	stall := c.thread.h2.times.stall
	least := c.thread.loop.Least(stall)
	c.still = 0
	c.conn.Each(func(s *h2.Stream) {
		st := s.Owner.(*streamH2)
		took := s.Sent() - st.sent
		moved := s.Sent() != st.seen
		st.seen = s.Sent()
		if s.Buffered() == 0 || took >= least {
			st.sent, st.stalled = s.Sent(), now
			return
		}
		if !moved && now-st.stalled >= c.thread.h2.times.check {
			c.still++
		}
		if now-st.stalled < stall {
			return
		}
		why := loop.ErrStalled
		if took > 0 {
			why = loop.ErrSlow
		}
		st.endStream(h2.Cancel)
		if st.x == nil {
			c.put(st)
			return
		}
		st.x.clientFailed(streamFault(why))
	})
	c.noteStuck()
}

// drain tells the client to take its next requests elsewhere. One that has not
// asked anything yet is told with its first request, if that comes soon: there
// are clients, Go's among them, to whom the end of a connection before the first
// request is an error.
func (c *serverH2) drain() {
	if c.conn.Used() {
		c.conn.Drain()
	} else {
		c.quiet = c.thread.loop.Now()
	}
	c.soil()
	c.wait()
}

func (c *serverH2) from() netip.AddrPort { return c.client.peer }

// cut ends the connection now.
func (c *serverH2) cut() {
	c.conn.Each(func(s *h2.Stream) {
		st := s.Owner.(*streamH2)
		st.s = nil
		if st.x != nil {
			st.x.cutDown()
		}
	})
	c.cutOff()
}

// startLinger says FIN after what was written and reads on for a while, so that
// the client's own bytes do not reset our last ones away.
func (c *serverH2) startLinger() {
	c.conn.Fail(errors.New("connection is over"))
	c.state = serverLinger
	c.t.Resume()
	c.t.CloseWrite()
	c.thread.loop.Stop(&c.timer)
	c.thread.loop.Set(&c.timer, c.thread.proxy.times.linger, c)
}

// leaveTime is how long a client may take to see that its connection is over.
const leaveTime = 5 * time.Second

// awaitsEnd: the client was told to go and has not closed yet. It may be about to
// ask something; a reset would take from it the GOAWAY that says that nothing of
// it was begun.
func (c *serverH2) awaitsEnd() bool {
	return c.thread.leaving && time.Duration(c.lingers)*c.thread.proxy.times.linger < leaveTime
}

// cutOff closes now and takes the connection out of the books, once.
func (c *serverH2) cutOff() {
	if c.state == serverClosed {
		return
	}
	c.state = serverClosed
	c.noteStuck()
	c.thread.loop.Stop(&c.timer)
	c.thread.clients.remove(c)
	c.t.Close()
	c.client.gone()
}

func (c *serverH2) index() *int { return &c.place }

func (c *serverH2) whose() *client { return c.client }
