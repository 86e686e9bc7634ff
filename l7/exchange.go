package l7

import "github.com/cirque-lb/lb/l7/loop"

// downstream is the client's side of one exchange: the current request of an
// HTTP/1 connection, or an HTTP/2 stream.
//
// The exchange calls sendInfo any number of times, then sendHead once, sendBody
// and at most one sendTrailers; the response is over with the call that has end
// set or with sendTrailers, and done follows. Or it calls abort at any point,
// and done follows. After done neither side calls the other again.
type downstream interface {
	sendInfo(status int, h Header)
	sendHead(res *Response, end bool)
	sendBody(p []byte, end bool)
	sendTrailers(h Header)
	pauseBody() // no requestBody until resumeBody
	resumeBody()
	buffered() int  // response bytes that the client has not taken yet
	abort(e *Error) // no whole response: RST_STREAM, or close
	done()          // the exchange is over
}

// upstream is the backend's side of one attempt: an HTTP/1 connection while it
// serves one request, or an HTTP/2 stream.
//
// It is free for others, or closed, once its response has ended and the request
// was sent whole; abort ends it before.
type upstream interface {
	sendHead(req *Request, end bool)
	sendBody(p []byte, end bool)
	sendTrailers(h Header)
	pauseBody() // no upstreamBody until resumeBody
	resumeBody()
	buffered() int // request bytes that the backend has not taken yet
	abort()        // the exchange wants nothing more of it
}

// exchange is the life of one request, blind to the protocols on both sides:
//
//	begin -> route -> Request phases -> attempt { pick, connect, Upstream phases,
//	send, body } -> response head -> Response phases -> body -> Log
//
// All of it happens on one loop. Bodies given to its methods are valid during
// the call only.
type exchange struct {
	session Session
	proxy   *Proxy
	loop    *loop.Loop
	down    downstream
	up      upstream
}

// Called by the downstream, in this order.

// begin starts the exchange with a request whose head is whole and well-formed.
// req and its strings live until done. end: there is no body.
func (x *exchange) begin(req *Request, end bool) {}

// requestBody brings a piece of the body; the last one, which may be empty, has
// end set. In a tunnel (after a 101) end is the client's half-close.
func (x *exchange) requestBody(p []byte, end bool) {}

// requestTrailers ends a body that had trailers.
func (x *exchange) requestTrailers(h Header) {}

// refuse ends, instead of begin, a request that the codec did not accept, as
// far as it was parsed: it is answered, counted and logged like any other. Or,
// after begin, a request whose body is not valid.
func (x *exchange) refuse(req *Request, e *Error) {}

// clientGone says that nobody waits for the response any more.
func (x *exchange) clientGone(err error) {}

// clientDrained says that down.buffered has fallen low.
func (x *exchange) clientDrained() {}

// Called by the upstream.

// upstreamInfo brings a 1xx, but for 101.
func (x *exchange) upstreamInfo(status int, h Header) {}

// upstreamHead brings the response's head; 101 makes it a tunnel. res and its
// strings are valid until the response has ended.
func (x *exchange) upstreamHead(res *Response, end bool) {}

// upstreamBody brings a piece of the body; the last one, which may be empty,
// has end set. In a tunnel end is the backend's half-close.
func (x *exchange) upstreamBody(p []byte, end bool) {}

// upstreamTrailers ends a body that had trailers.
func (x *exchange) upstreamTrailers(h Header) {}

// upstreamFailed says that the attempt is over without a whole response. The
// exchange lets go of its upstream.
func (x *exchange) upstreamFailed(e *Error) {}

// upstreamDrained says that up.buffered has fallen low.
func (x *exchange) upstreamDrained() {}
