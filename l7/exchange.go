package l7

import (
	"context"
	"errors"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// downstream is the client's side of one exchange: the current request of an
// HTTP/1 connection, or an HTTP/2 stream.
//
// The exchange calls sendInfo any number of times, then sendHead once, sendBody
// and at most one sendTrailers; the response is over with the call that has end
// set or with sendTrailers, and done follows. Or it calls abort at any point,
// and done follows. After done neither side calls the other again. None of
// these calls the exchange back before it returns.
type downstream interface {
	sendInfo(status int, h Header)
	sendHead(res *Response, end bool)
	sendBody(p []byte, end bool)
	sendTrailers(h Header)
	pauseBody() // no more requestBody than what is read already, until resumeBody
	resumeBody()
	buffered() int  // response bytes that the client has not taken yet
	room() int      // response bytes that it is sure to take next
	known() bool    // it has taken a response before
	abort(e *Error) // no whole response: RST_STREAM, or close
	done()          // the exchange is over
}

// upstream is the backend's side of one attempt: an HTTP/1 connection while it
// serves one request, or an HTTP/2 stream.
//
// It lets go of the exchange, before it says so, when the response has ended or
// it has failed; abort ends it before. None of its methods calls the exchange
// back before it returns.
type upstream interface {
	sendHead(req *Request, end bool)
	sendBody(p []byte, end bool)
	sendTrailers(h Header)
	pauseBody() // no more upstreamBody than what is read already, until resumeBody
	resumeBody()
	buffered() int // request bytes that the backend has not taken yet
	abort()        // the exchange wants nothing more of it
}

// exchange is the life of one request, blind to the protocols on both sides:
//
//	begin -> route -> Request phases -> attempt { pick, connect, Upstream phases,
//	send, body } -> response head -> Response phases -> body -> finish
//
// All of it happens on one loop. Bodies given to its methods are valid during
// the call only. An exchange is reused after finish: whoever calls a method that
// may finish it does not touch it afterwards.
type exchange struct {
	session Session
	thread  *thread
	number  uint64 // of the request, among all that used this exchange
	flown   uint64 // its number in the recorder; 0: none
	place   int    // among the thread's
	view    *view  // one configuration and health state for the whole request
	chain   *chain
	down    downstream
	up      upstream // of the current attempt; nil between attempts
	queued  *queue   // where the attempt waits for room at its backend; nil: it does not

	timer    loop.Timer
	wait     waitFor
	patient  time.Duration // the response may take so much longer where nobody else can be asked
	deadline time.Duration // of the loop's clock: timeout.total, or when the client gives up; 0: none

	// The way in.
	reqEnd   bool   // the request was read whole
	sending  bool   // the attempt has the head: bodies go straight through
	kept     []byte // of the body: what is not sent yet, or may be sent again
	keeping  bool   // kept is the body from its beginning
	trailers Header // of the request
	request  Request
	text     []byte // what the strings of request point into
	inPaused bool
	bodyDue  time.Duration // of the loop's clock, when the rest of the body is late
	bodySlow bool          // bytes come, but too few
	tried    []int         // candidates of the view's choice
	fresh    bool          // the next attempt makes a connection of its own
	mirror   *copied
	copyOf   *Pool // this is a copy that this pool gets

	// The way out.
	timed     bool   // its phases stand for others in the metrics
	turned    int    // phases of the filters before this one are still to come
	calling   int    // the filter whose Request or Response phase runs
	passIn    uint64 // filters that let the request's body pass, by bit
	passOut   uint64 // the same for the response's
	entered   int    // Request phases were entered up to here
	informed  bool   // the client has a 1xx
	headSent  bool   // the client has a response's head
	resEnd    bool   // the backend's response is whole, or there is none
	bodyless  bool   // it ended with its head
	outPaused bool
	tunnel    bool
	reply     *answerH1 // what an HTTP/1 backend's response points into
	response  Response  // an HTTP/2 backend's
	made      bool      // the response was made here

	// A phase that runs off the loop.
	suspended bool
	held      []heldEvent
	cancel    context.CancelFunc

	// For the log line.
	failure  *Error
	status   int
	bytesIn  int64
	bytesOut int64
	began    time.Duration // loop time of begin
	dialed   time.Duration // of the last attempt's beginning
	sent     time.Duration // of the last attempt's head
	answered time.Duration // of the response head
	over     bool
	reused   bool // the attempt's connection had served before
	upActive bool // the attempt counts in its backend's load
}

// Called by the downstream, in this order.

// begin starts the exchange with a request whose head is whole and well-formed.
// req and its strings live until done. end: there is no body.
func (x *exchange) begin(req *Request, end bool) {
	x.start(req)
	x.reqEnd = end
	x.keeping = true
	x.chain = &noChain
	x.deadline = grpcDeadline(req, x.began)
	if x.thread.proxy.memory.level.Load() >= memoryOver {
		x.fail(&Error{Status: 503, Reason: lb.MemoryLimit})
		return
	}
	route := x.thread.listenerOf(x.view.Snapshot, req.Listener).route(req)
	if route == nil {
		x.fail(&Error{Status: 404, Reason: lb.NoRoute})
		return
	}
	x.session.Route = route
	if last := x.began + route.Config.Timeout.Total; x.deadline == 0 || last < x.deadline {
		x.deadline = last
	}
	x.flown = x.thread.flight.begin(&x.session)
	x.chain = &route.chain
	x.turned = len(route.chain.filters)
	x.timed = x.turned > 0 && x.thread.sampled()
	x.requestPhases(0)
}

var noChain chain

func (x *exchange) start(req *Request) {
	x.session.Request = req
	x.session.x = x
	x.began = x.thread.loop.Now()
	x.session.Start = x.thread.loop.Time()
	x.view = x.thread.proxy.view.Load()
	x.thread.requests.Add(1)
	x.thread.remember(x)
}

// refuse ends, instead of begin, a request that the codec did not accept, as
// far as it was parsed: it is answered, counted and logged like any other. Or,
// after begin, a request whose body is not valid.
func (x *exchange) refuse(req *Request, e *Error) {
	if x.session.Request == nil {
		x.start(req)
		x.chain = &noChain
	}
	if x.hold(heldEvent{kind: heldRefuse, err: e}) {
		return
	}
	x.dropAttempt()
	x.fail(e)
}

// giveUp is refuse without an answer.
func (x *exchange) giveUp(req *Request, e *Error) {
	x.start(req)
	x.chain = &noChain
	x.finish(e)
}

// requestBody brings a piece of the body; the last one, which may be empty, has
// end set. In a tunnel (after a 101) end is the client's half-close.
func (x *exchange) requestBody(p []byte, end bool) {
	if x.over || x.suspended && x.hold(heldEvent{kind: heldBody, data: p, end: end}) {
		return
	}
	x.bytesIn += int64(len(p))
	if x.tunnel {
		x.tunnelIn(p, end)
		return
	}
	x.takeBody(p, end, nil)
}

// requestTrailers ends a body that had trailers.
func (x *exchange) requestTrailers(h Header) {
	if x.over || x.hold(heldEvent{kind: heldTrailers, header: h}) {
		return
	}
	x.takeBody(nil, true, h)
}

// clientGone says that nobody waits for the response any more.
func (x *exchange) clientGone(err error) {
	e := &Error{Status: 499, Source: FromClient, Reason: lb.ClientAbort, Err: err}
	switch {
	case errors.Is(err, loop.ErrStalled):
		e.Status, e.Reason = 408, lb.ClientTimeout
	case errors.Is(err, loop.ErrSlow):
		e.Status, e.Reason = 408, lb.SlowClient
	case errors.Is(err, loop.ErrStrain):
		e.Status, e.Reason = 408, lb.MemoryLimit
	}
	if x.over || x.hold(heldEvent{kind: heldGone, err: e}) {
		return
	}
	x.finish(e)
}

// clientDrained says that down.buffered has fallen low.
func (x *exchange) clientDrained() {
	if x.over || !x.outPaused {
		return
	}
	x.outPaused = false
	if x.up != nil && !x.suspended {
		x.up.resumeBody()
		x.rearm()
	}
}

// Called by the upstream.

// upstreamInfo brings a 1xx, but for 101.
func (x *exchange) upstreamInfo(status int, h Header) {
	if x.headSent || x.suspended {
		return
	}
	if req := x.session.Request; req.Version != HTTP10 {
		x.informed = true
		x.down.sendInfo(status, h)
	}
}

// upstreamHead brings the response's head; 101 makes it a tunnel. res and its
// strings are valid until the response has ended. After end the upstream has let
// go of the exchange.
func (x *exchange) upstreamHead(res *Response, end bool) {
	if end {
		x.letGo()
	}
	if x.hold(heldEvent{kind: heldUpHead, response: res, end: end}) {
		return
	}
	x.answered = x.thread.loop.Now()
	x.session.Response = res
	if x.view.via != nil {
		res.Header.Add("Via", x.view.via.of(res.Version))
	}
	x.bodyless = end
	if !end {
		x.waitBody()
	}
	x.observe(res)
	x.tunnel = res.Status == 101
	if x.tunnel {
		x.startTunnel(res)
		return
	}
	x.responsePhases(0)
}

// upstreamBody brings a piece of the body; the last one, which may be empty,
// has end set. In a tunnel end is the backend's half-close.
func (x *exchange) upstreamBody(p []byte, end bool) {
	if x.over {
		return
	}
	if x.tunnel {
		x.tunnelOut(p, end)
		return
	}
	if end {
		x.letGo()
	}
	if x.suspended && x.hold(heldEvent{kind: heldUpBody, data: p, end: end}) {
		return
	}
	if !end {
		x.rearm()
	}
	x.sendBody(p, end)
}

// upstreamTrailers ends a body that had trailers.
func (x *exchange) upstreamTrailers(h Header) {
	if x.over {
		return
	}
	x.letGo()
	if x.hold(heldEvent{kind: heldUpTrailers, header: h}) {
		return
	}
	x.sendTrailers(h)
}

// upstreamFailed says that the attempt is over without a whole response; the
// upstream has let go of the exchange.
func (x *exchange) upstreamFailed(e *Error) {
	if x.over {
		return
	}
	x.gone()
	if x.hold(heldEvent{kind: heldUpFailed, err: e}) {
		return
	}
	x.attemptFailed(e)
}

// upstreamDrained says that up.buffered has fallen low.
func (x *exchange) upstreamDrained() {
	if x.over || x.suspended || !x.inPaused {
		return
	}
	x.letIn()
}

// finish is the end: whatever is left of the attempt is given up, the Log phases
// run, the line is written, and the downstream is told.
func (x *exchange) finish(e *Error) {
	x.over = true
	x.failure = e
	x.thread.loop.Rest(&x.timer)
	x.dropAttempt()
	x.logPhases(0)
}

// complete follows the Log phases.
func (x *exchange) complete() {
	x.thread.record(x)
	x.thread.forget(x)
	x.thread.requests.Add(-1)
	down := x.down
	x.thread.recycle(x)
	down.done()
}
