package l7

import (
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
	"github.com/cirque-lb/lb/l7/loop"
)

// clientH1 is an HTTP/1 connection to a backend: an upstream while it serves a
// request, idle in its endpoint's shard otherwise.
type clientH1 struct {
	conn     loop.Conn
	t        transport // &conn, or TLS over it
	thread   *thread
	endpoint *endpoint
	limits   *lb.PoolLimits

	x      *exchange // nil while idle
	answer *answerH1 // nil while idle
	state  clientState

	born, idleSince time.Duration // of the loop's clock
	maxAge          time.Duration
	uses            int
	bound           bound
	suspect         bool // the last response was to HEAD: some backends send its body all the same
	idling          bool // to be put away when TLS is through with it
}

type clientState uint8

const (
	clientConnecting clientState = iota
	clientIdle
	clientHead // a response's head is to come
	clientBody
	clientTunnel
	clientClosed
)

// answerH1 is what a clientH1 needs while it serves a request. It belongs to the
// exchange, for the response points into it.
type answerH1 struct {
	head     []byte // what the strings of parsed point into
	parsed   h1.Response
	body     h1.Body
	response Response
	method   string
	chunked  bool   // the request's body
	sent     bool   // the request, whole
	upgrade  bool   // asked for
	heard    bool   // a byte of the response came
	whole    bool   // its head is parsed
	taken    uint64 // by the kernel, before the request
	interim  int    // bytes of interim heads
}

// maxInterim bounds the heads that may come before a response's own.
const maxInterim = 64 << 10

// dialH1 starts a connection that is going to serve x.
func (t *thread) dialH1(x *exchange, b *Backend) (*clientH1, error) {
	limits := &b.pool.Config.Connections
	c := &clientH1{thread: t, endpoint: b.endpoint, limits: limits, x: x, born: t.loop.Now(), bound: b.endpoint.bound(x.session.Request)}
	c.maxAge = jittered(limits.MaxAge)
	if err := c.dial(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *clientH1) dial() error {
	e := c.endpoint
	to := e.remote
	to.Known = c.x != nil && c.x.down.known()
	if err := c.conn.Dial(c.thread.loop, to, c); err != nil {
		return err
	}
	c.t = &c.conn
	e.open.Add(1)
	c.thread.counts.dials.Add(1)
	return nil
}

// jittered is up to a tenth less than the age: connections that were made in one
// moment shall not end in one.
func jittered(age time.Duration) time.Duration {
	return age - time.Duration(rand.Int64N(int64(age/10)+1))
}

// Connected: the attempt's connection is there, or not.
func (c *clientH1) Connected(err error) {
	x := c.x
	if err != nil {
		c.x, c.state = nil, clientClosed
		c.endpoint.closed(c.thread)
		if x == nil { // the next one will tell, or a check
			c.endpoint.warming.Add(-1)
			return
		}
		x.upstreamFailed(dialError(err))
		return
	}
	if c.endpoint.key.proxied {
		c.conn.Write(appendProxyHeader(nil, c.bound.source, c.bound.destination))
	}
	if c.endpoint.secure != nil {
		c.secure()
		return
	}
	c.serve(x)
}

// serve begins to serve who waits for the connection, or puts it away.
func (c *clientH1) serve(x *exchange) {
	if x == nil {
		c.endpoint.warming.Add(-1)
		c.state = clientIdle
		c.putAway()
		return
	}
	c.expect(x)
	x.connected()
}

// expect makes an open connection ready for a request of x.
func (c *clientH1) expect(x *exchange) {
	c.x = x
	c.conn.Fit(0)
	c.answer = x.replyRoom()
	c.answer.taken = c.conn.Taken()
	c.state = clientHead
	c.uses++
}

// sendHead is upstream's.
func (c *clientH1) sendHead(req *Request, end bool) {
	a := c.answer
	a.method, a.upgrade, a.sent = req.Method, req.Upgrade != "", end
	out := h1.Out{Length: -1, Upgrade: req.Upgrade, Parsed: req.parsed}
	switch {
	case end:
		if req.Length == 0 && takesBody(req.Method) {
			out.Framing, out.Length = h1.Length, 0
		}
	case req.Length >= 0:
		out.Framing, out.Length = h1.Length, req.Length
	case !end:
		out.Framing = h1.Chunked
	}
	a.chunked = out.Framing == h1.Chunked
	head := h1.AppendRequest(c.thread.text[:0], req.Method, req.Target, req.Host, req.Header, out)
	c.thread.text = head
	c.t.Write(head)
}

// takesBody: methods of which an origin may insist on knowing that there is none.
func takesBody(method string) bool { return method == "POST" || method == "PUT" || method == "PATCH" }

func (c *clientH1) sendBody(p []byte, end bool) {
	a := c.answer
	switch {
	case c.state == clientTunnel:
		c.t.Write(p)
		if end {
			c.t.CloseWrite()
		}
		return
	case a.chunked:
		c.writeChunk(p)
		if end {
			c.t.Write([]byte("0\r\n\r\n"))
		}
	default:
		c.t.Write(p)
	}
	a.sent = a.sent || end
}

// writeChunk writes p as one chunk.
func (c *clientH1) writeChunk(p []byte) { c.thread.writeChunk(c.t, p) }

func (c *clientH1) sendTrailers(h Header) {
	if c.answer.chunked {
		c.thread.text = h1.AppendLastChunk(c.thread.text[:0], h)
		c.t.Write(c.thread.text)
	}
	c.answer.sent = true
}

func (c *clientH1) pauseBody()    { c.t.Pause() }
func (c *clientH1) resumeBody()   { c.t.Resume() }
func (c *clientH1) buffered() int { return c.t.Buffered() }

// abort ends the attempt: what is left of the response would be the next one's.
// A tunnel that both sides have ended still writes what was said.
func (c *clientH1) abort() {
	over := c.state == clientTunnel && c.x.reqEnd && c.x.resEnd
	c.detach()
	if over {
		c.state = clientClosed
		c.endpoint.closed(c.thread)
		c.t.Finish()
		return
	}
	c.close()
}

// detach lets go of the exchange.
func (c *clientH1) detach() { c.x, c.answer = nil, nil }

func (c *clientH1) close() {
	if c.state != clientClosed {
		c.state = clientClosed
		c.endpoint.closed(c.thread)
		c.t.Close()
	}
}

// bulk is a read after which the next one is fitted to what the client takes.
const bulk = 16 << 10

// Received is the transport's.
func (c *clientH1) Received(p []byte) {
	c.receive(p)
	if len(p) >= bulk && c.x != nil {
		c.t.Fit(c.x.down.room())
	}
}

func (c *clientH1) receive(p []byte) {
	if len(p) > 0 && c.answer != nil {
		c.answer.heard = true
	}
	for len(p) > 0 {
		switch c.state {
		case clientHead:
			if c.answer.method == "" {
				c.fail(responseError(errors.New("answers before it is asked")))
				return
			}
			if c.uses > 1 && c.conn.Taken() == c.answer.taken {
				c.failUnasked()
				return
			}
			p = c.readHead(p)
		case clientBody:
			p = c.readBody(p)
		case clientTunnel:
			c.x.upstreamBody(p, false)
			return
		default: // nothing was asked for
			c.close()
			return
		}
	}
}

// firstHead is how much of what came is copied at first, to find a head in:
// what is behind it, a body perhaps, is copied for nothing.
const firstHead = 512

// readHead takes bytes of the response's head and returns what is behind it.
func (c *clientH1) readHead(p []byte) []byte {
	a := c.answer
	for len(p) > 0 {
		had, take := len(a.head), min(len(p), firstHead+len(a.head))
		a.head = append(a.head, p[:take]...)
		n, err := a.parsed.Parse(a.head, a.method, &c.x.view.limits)
		if err != nil {
			c.fail(responseError(err))
			return nil
		}
		if n > 0 {
			a.head, a.whole = a.head[:n], true
			return c.head(p[n-had:])
		}
		p = p[take:]
	}
	return nil
}

// head is a whole head; rest is what came behind it.
func (c *clientH1) head(rest []byte) []byte {
	a := c.answer
	r := &a.parsed
	if r.Interim() {
		// Nothing holds these back while the client does not read.
		if a.interim += len(a.head); a.interim > maxInterim {
			c.fail(responseError(errors.New("too many interim responses")))
			return nil
		}
		c.x.upstreamInfo(r.Status, r.Fields)
		a.head, a.whole = a.head[:0], false
		return rest
	}
	a.response = Response{Status: r.Status, Version: version(r.Minor), Header: r.Fields, Length: r.Length, parsed: a.head}
	if r.Status == 101 {
		return c.switchOver(rest)
	}
	a.body.Reset(r.Framing, r.Length, &c.x.view.limits)
	if r.Framing == h1.None || a.body.Done() {
		if r.Framing == h1.Length {
			a.response.Length = 0
		}
		c.whole(rest, func(x *exchange) { x.upstreamHead(&a.response, true) })
		return nil
	}
	c.state = clientBody
	if r.Framing != h1.Length {
		a.response.Length = -1
	}
	c.x.upstreamHead(&a.response, false)
	return rest
}

// switchOver makes the connection a tunnel.
func (c *clientH1) switchOver(rest []byte) []byte {
	a := c.answer
	if !a.upgrade {
		c.fail(responseError(errors.New("switches protocols unasked")))
		return nil
	}
	a.response.Upgrade = a.parsed.Upgrade
	c.state = clientTunnel
	c.x.upstreamHead(&a.response, false)
	return rest
}

// readBody takes bytes of the response's body.
func (c *clientH1) readBody(p []byte) []byte {
	a := c.answer
	data, n, err := a.body.Next(p)
	if err != nil {
		c.fail(responseError(err))
		return nil
	}
	p = p[n:]
	switch {
	case !a.body.Done():
		if len(data) > 0 {
			c.x.upstreamBody(data, false)
		}
		return p
	case len(a.body.Trailers()) > 0:
		if len(data) > 0 {
			c.x.upstreamBody(data, false)
		}
		if c.x != nil {
			c.whole(p, func(x *exchange) { x.upstreamTrailers(a.body.Trailers()) })
		}
		return nil
	}
	c.whole(p, func(x *exchange) { x.upstreamBody(data, true) })
	return nil
}

// whole: the response is whole. The connection is put away before the exchange
// hears of it, so that the next request can have it.
func (c *clientH1) whole(rest []byte, tell func(*exchange)) {
	x, a := c.x, c.answer
	c.suspect = a.method == "HEAD" && a.parsed.Length != 0
	c.detach()
	c.state = clientIdle
	if len(rest) > 0 || !a.sent || a.parsed.Close || a.parsed.Framing == h1.UntilClose || c.aged(c.thread.loop.Now()) {
		c.close()
	} else {
		c.t.Resume()
		c.putAway()
	}
	tell(x)
}

// aged reports whether the connection has been open long enough.
func (c *clientH1) aged(now time.Duration) bool { return now-c.born > c.maxAge }

// old reports whether an idle connection should go.
func (c *clientH1) old(now time.Duration) bool {
	return c.aged(now) || now-c.idleSince > c.limits.IdleTimeout
}

// Ended is the transport's.
func (c *clientH1) Ended(err error) {
	switch c.state {
	case clientConnecting:
		c.Connected(err)
	case clientHead:
		c.fail(c.lost(err))
	case clientBody:
		c.bodyEnded(err)
	case clientTunnel:
		c.tunnelEnded(err)
	default:
		c.close()
	}
}

// bodyEnded: the end of the connection is the end of the body, or a truncation.
func (c *clientH1) bodyEnded(err error) {
	a := c.answer
	if err == io.EOF && a.body.EOF() == nil {
		c.whole(nil, func(x *exchange) { x.upstreamBody(nil, true) })
		return
	}
	c.fail(&Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamReset, Sent: true, Err: err})
}

func (c *clientH1) tunnelEnded(err error) {
	if err == io.EOF {
		c.x.upstreamBody(nil, true)
		return
	}
	c.fail(&Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamReset, Sent: true, Err: err})
}

// lost is the error of a connection that ended before the response began.
func (c *clientH1) lost(err error) *Error {
	e := &Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamReset, Sent: true, Err: err}
	if errors.Is(err, loop.ErrStalled) || errors.Is(err, loop.ErrSlow) {
		e.Status, e.Reason, e.kind = 504, lb.UpstreamTimeout, failedLate
	} else if !c.answer.heard {
		e.kind = failedSilent
		e.Sent = c.conn.Taken() > c.answer.taken
	}
	return e
}

// failUnasked: bytes came before the request went out, so they answer an earlier
// one, or tell of the connection's end.
func (c *clientH1) failUnasked() {
	c.thread.counts.stale.Add(1)
	e := responseError(errors.New("answers before it is asked"))
	e.kind, e.Sent = failedSilent, false
	c.fail(e)
}

// fail ends the attempt with an error.
func (c *clientH1) fail(e *Error) {
	x := c.x
	c.detach()
	c.close()
	x.upstreamFailed(e)
}

// Drained is the transport's.
func (c *clientH1) Drained() {
	if c.x != nil && c.state != clientConnecting {
		c.x.upstreamDrained()
	}
}
