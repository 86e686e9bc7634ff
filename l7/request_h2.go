package l7

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h2"
	"github.com/cirque-lb/lb/l7/loop"
)

// requestH2 is a request on a clientH2: an upstream.
type requestH2 struct {
	c        *clientH2
	x        *exchange  // nil when it is over
	s        *h2.Stream // nil before sendHead and after its end
	waits    bool       // for the connection
	reserved bool
	answered bool   // the head of the response came
	failure  *Error // of which x is told later in the turn

	sent    int64 // of s, when it was last looked at
	stalled time.Duration
	tunnel  tunnelH2
	key     string // of a WebSocket's client that speaks HTTP/1
}

// request makes the upstream of an attempt.
func (c *clientH2) request(x *exchange) *requestH2 {
	r := c.thread.h2.requests.get()
	r.c = c
	r.x = x
	return r
}

// enqueue waits for the connection.
func (r *requestH2) enqueue() {
	r.waits = true
	r.c.waiting = append(r.c.waiting, r)
}

// move takes a request that waits to another connection.
func (r *requestH2) move() {
	if !r.waits {
		return
	}
	to, err := r.c.thread.roomH2(r.c.endpoint, r.c.limits)
	switch {
	case err != nil:
		r.waits = false
		r.failLater(err)
	case to.ready:
		r.c = to
		r.waits = false
		r.reserve()
		r.x.connected()
	default:
		r.c = to
		r.enqueue()
	}
}

func (r *requestH2) reserve() {
	r.reserved = true
	r.c.reserved++
}

func (r *requestH2) unreserve() {
	if r.reserved {
		r.reserved = false
		r.c.reserved--
	}
}

// detach lets go of the exchange.
func (r *requestH2) detach() *exchange {
	x := r.x
	r.x, r.waits = nil, false
	r.unreserve()
	return x
}

// put takes a request back that nobody points to any more.
func (r *requestH2) put() {
	if r.x != nil || r.s != nil || r.failure != nil {
		return
	}
	r.c.thread.h2.requests.put(r)
}

func (r *requestH2) reset() { *r = requestH2{} }

// sendHead is upstream's, as those that follow.
func (r *requestH2) sendHead(req *Request, end bool) {
	c := r.c
	r.unreserve()
	s, err := c.open(r, req.Method == "HEAD")
	if err != nil {
		r.failLater(&Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamReset, Err: err, kind: failedRefused})
		return
	}
	r.s = s
	r.stalled = c.thread.loop.Now()
	conn := c.conn
	if req.Upgrade != "" && conn.Connect() && equalFold(req.Upgrade, "websocket") {
		r.writeConnect(req)
		return
	}
	conn.BeginHead(s)
	conn.Field(":method", req.Method)
	conn.Field(":scheme", c.scheme())
	if req.Host != "" {
		conn.Field(":authority", req.Host)
	}
	conn.Field(":path", req.Target)
	writeFields(conn, req.Header)
	if req.Length > 0 || req.Length == 0 && takesBody(req.Method) {
		conn.Field("content-length", strconv.FormatInt(req.Length, 10))
	}
	if isGRPC(req) {
		conn.Field("te", "trailers")
	}
	conn.EndHead(end)
	c.soil()
}

// open opens a stream for r, if the backend takes one still.
func (c *clientH2) open(r *requestH2, noBody bool) (*h2.Stream, error) {
	if c.closed {
		return nil, h2.ErrNoStream
	}
	if c.conn.Streams() == 0 {
		c.heard = c.thread.loop.Now()
		defer c.wait()
	}
	return c.conn.Open(r, noBody)
}

func (c *clientH2) scheme() string {
	if c.endpoint.secure != nil {
		return "https"
	}
	return "http"
}

// failLater tells the exchange of a failure when it has returned.
func (r *requestH2) failLater(e *Error) {
	r.failure = e
	r.c.failed = append(r.c.failed, r)
	r.c.soil()
}

func (r *requestH2) sendBody(p []byte, end bool) {
	if r.s != nil {
		r.c.conn.Write(r.s, p, end)
		r.c.soil()
	}
}

func (r *requestH2) sendTrailers(h Header) {
	if r.s == nil {
		return
	}
	conn := r.c.conn
	conn.BeginHead(r.s)
	writeFields(conn, h)
	conn.EndHead(true)
	r.c.soil()
}

func (r *requestH2) pauseBody() {
	if r.s != nil {
		r.c.conn.Pause(r.s)
	}
}

func (r *requestH2) resumeBody() {
	if r.s != nil {
		r.c.conn.Resume(r.s)
		r.c.soil()
	}
}

func (r *requestH2) buffered() int {
	if r.s == nil {
		return 0
	}
	return r.s.Buffered()
}

func (r *requestH2) abort() {
	c, x := r.c, r.detach()
	if !c.ready {
		c.leave(r)
		return
	}
	if r.tunnel != tunnelOpen || r.s == nil || !r.s.Finished() || !x.resEnd {
		r.endStream(h2.Cancel) // else both sides have ended, and what is queued still goes out
	}
	r.put()
}

// leave takes r out of those that wait; a connection for nobody is not made.
func (c *clientH2) leave(r *requestH2) {
	if i := slices.Index(c.waiting, r); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	if len(c.waiting) == 0 {
		c.close()
	}
}

// endStream resets the stream, if there is one.
func (r *requestH2) endStream(code h2.ErrCode) {
	if r.s != nil {
		r.c.conn.Reset(r.s, code)
		r.s = nil
		r.c.closedOne()
		r.c.soil()
	}
}

// whole: the response is whole. What is left of the request is not wanted.
func (r *requestH2) whole(tell func(*exchange)) {
	if r.s != nil && !r.s.Finished() {
		r.endStream(h2.Cancel)
	}
	tell(r.detach())
	r.put()
}

// lost is the error of a stream that ended before its response.
func (r *requestH2) lost(err error) *Error {
	e := &Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamReset, Sent: true, Err: err}
	var stream *h2.StreamError
	var conn *h2.ConnError
	switch {
	case err == nil:
		e.Err = errors.New("stream closed without a response")
	case errors.As(err, &stream):
		switch {
		case stream.Unprocessed:
			e.kind, e.Sent = failedRefused, false
		case !stream.Remote:
			e.Reason = lb.UpstreamProtocol
		}
	case errors.As(err, &conn):
		e.Reason = lb.UpstreamProtocol
	case errors.Is(err, loop.ErrStalled), errors.Is(err, loop.ErrSlow), errors.Is(err, errUnheard):
		e.Status, e.Reason = 504, lb.UpstreamTimeout
		if !r.answered {
			e.kind = failedLate
		}
	case !r.answered:
		e.kind = failedSilent
	}
	return e
}
