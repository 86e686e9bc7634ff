package l7

import (
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// Time-outs that no configuration changes.
const (
	headTimeout      = 10 * time.Second // a request's head, whole
	keepAliveTimeout = 75 * time.Second
	lingerTimeout    = 2 * time.Second
	lingerLongest    = 30 * time.Second // while the client takes our last bytes slowly
	handshakeTimeout = 10 * time.Second // of a client
)

// times are those of client connections; tests are less patient.
type times struct{ head, keepAlive, linger, handshake time.Duration }

var usualTimes = times{headTimeout, keepAliveTimeout, lingerTimeout, handshakeTimeout}

// waitFor is what an exchange's timer waits for.
type waitFor uint8

const (
	waitNothing     waitFor = iota
	waitConnection          // of the attempt
	waitRoom                // at its backend, for one more connection or request
	waitRequest             // the rest of the request's body
	waitHead                // of the response
	waitMore                // of the response's body
	waitTunnelBytes         // in either direction
)

// arm waits for w for so long, and no longer than the client does.
func (x *exchange) arm(w waitFor, d time.Duration) {
	x.wait = w
	if x.deadline > 0 {
		d = min(d, max(0, x.deadline-x.thread.loop.Now()))
	}
	x.thread.loop.Set(&x.timer, d, x)
}

func (x *exchange) waitConnect(d time.Duration) { x.arm(waitConnection, d) }

// waitResponse waits for the rest of the request, then for the answer to it.
func (x *exchange) waitResponse() {
	t := &x.session.Route.Config.Timeout
	switch {
	case x.session.Response != nil:
		x.rearm()
	case x.reqEnd:
		first, then := x.patience()
		x.patient = then
		x.arm(waitHead, first)
	default:
		if x.bodyDue == 0 {
			x.bodyDue = x.thread.loop.Now() + t.Idle
		}
		x.arm(waitRequest, x.bodyDue-x.thread.loop.Now())
	}
}

// bodyCame puts off when the rest of the request's body is late: each byte is
// worth its part of a second, but no more than timeout.idle is saved up. A gRPC
// stream may say as little as it likes.
func (x *exchange) bodyCame(n int) {
	now, idle := x.thread.loop.Now(), x.session.Route.Config.Timeout.Idle
	due := now + idle
	if rate := x.view.config.Limits.BodyRate; rate > 0 && x.bodyDue > 0 && !isGRPC(x.session.Request) {
		due = min(due, x.bodyDue+time.Duration(n)*time.Second/time.Duration(rate))
	}
	x.bodyDue, x.bodySlow = due, due < now+idle
}

// waitBody waits for the body of the response.
func (x *exchange) waitBody() { x.arm(waitMore, x.silence()) }

// silence is how long nothing may come of a response's body. A gRPC stream is a
// conversation that may rest for long, as a tunnel's: it ends by its own
// deadline, or when either side goes.
func (x *exchange) silence() time.Duration {
	t := &x.session.Route.Config.Timeout
	if isCall(x.session.Request) {
		return max(t.Idle, t.Tunnel)
	}
	return t.Idle
}

// rearm: something came.
func (x *exchange) rearm() {
	t := &x.session.Route.Config.Timeout
	switch x.wait {
	case waitMore:
		x.arm(waitMore, x.silence())
	case waitTunnelBytes:
		x.arm(waitTunnelBytes, t.Tunnel)
	}
}

// suspendedTick is how often a wait that is over looks whether the phase off the
// loop is, too.
const suspendedTick = 50 * time.Millisecond

// Expired is called when a wait took too long.
func (x *exchange) Expired(*loop.Timer) {
	late := x.deadline > 0 && x.thread.loop.Now() >= x.deadline
	if x.suspended && (late || x.wait != waitConnection && x.wait != waitRoom) {
		x.thread.loop.Set(&x.timer, suspendedTick, x) // what a phase off the loop does is bounded by its context
		return
	}
	if late {
		x.totalOver()
		return
	}
	switch x.wait {
	case waitConnection:
		x.up.abort()
		x.upstreamFailed(&Error{Status: 504, Source: FromUpstream, Reason: lb.ConnectTimeout, kind: failedConnect})
	case waitRoom:
		x.leaveQueue("timeout")
		x.upstreamFailed(full())
	case waitRequest:
		x.requestLate()
	case waitHead:
		x.responseLate()
	case waitMore:
		x.bodyLate()
	case waitTunnelBytes:
		x.finish(nil)
	}
}

// totalOver: time is up, by the fault of whom is waited for.
func (x *exchange) totalOver() {
	e := &Error{Status: 504, Source: FromUpstream, Reason: lb.UpstreamTimeout, Sent: true}
	if x.outPaused || x.wait == waitRequest && !x.inPaused {
		e = &Error{Status: 408, Source: FromClient, Reason: lb.ClientTimeout}
	}
	x.dropAttempt()
	x.fail(e)
}

// requestLate: the client is slow, unless it is us who do not read.
func (x *exchange) requestLate() {
	if x.inPaused {
		x.bodyDue = 0
		x.waitResponse()
		return
	}
	e := &Error{Status: 408, Source: FromClient, Reason: lb.ClientTimeout}
	if x.bodySlow {
		e.Reason = lb.SlowClient
	}
	x.dropAttempt()
	x.fail(e)
}

// bodyLate: the backend is slow, unless it is us who do not read. A client that
// does not read is the connection's to notice.
func (x *exchange) bodyLate() {
	if x.outPaused {
		x.rearm()
		return
	}
	x.up.abort()
	x.upstreamFailed(&Error{Status: 504, Source: FromUpstream, Reason: lb.UpstreamTimeout, Sent: true})
}
