package l7

import (
	"slices"
	"time"

	"github.com/cirque-lb/lb"
)

// retryOn is which failures a route tries again after.
type retryOn struct {
	connect, reset, refused, timeout bool
	methods                          []string // that may reach backends twice
}

func newRetryOn(c *lb.Retry) retryOn {
	on := func(name string) bool { return slices.Contains(c.On, name) }
	return retryOn{on("connect"), on("reset"), on("refused"), on("timeout"), c.Methods}
}

// mayRepeat reports whether a backend may get the request twice.
func (x *exchange) mayRepeat() bool {
	return slices.Contains(x.session.Route.retry.methods, x.session.Request.Method)
}

// replayable reports whether the body may have to be sent again: by HTTP/2 the
// backend may say that it did nothing with any request.
func (x *exchange) replayable() bool {
	r := x.session.Route
	if !x.keeping || x.session.Attempt >= r.Config.Retry.Attempts || len(x.kept) > replayLimit {
		return false
	}
	if x.session.Pool.Config.Protocol != lb.HTTP1 && r.retry.refused {
		return true
	}
	return (x.reused && r.retry.reset || r.retry.timeout) && x.mayRepeat()
}

// attemptFailed tries again when that is safe, and fails when not.
func (x *exchange) attemptFailed(e *Error) {
	x.blame(e)
	switch {
	case x.headSent:
		x.abort(e)
	case x.mayRetry(e):
		x.retryPhases(0, e)
	default:
		x.fail(e)
	}
}

// blame counts a failed attempt.
func (x *exchange) blame(e *Error) {
	if r := x.session.Response; r == nil || r.Status < 500 { // else it is counted
		x.session.Backend.load.failed()
	}
	x.observeFailure(e)
}

// mayRetry: only what surely had no effect, or may have it twice; only if the
// body is still there; and only within the budget.
func (x *exchange) mayRetry(e *Error) bool {
	route := x.session.Route
	if x.session.Attempt >= route.Config.Retry.Attempts || x.session.Response != nil {
		return false
	}
	if !x.keeping && !(x.reqEnd && x.bytesIn == 0) {
		return false
	}
	return x.safe(e) && x.session.Pool.budget.retry(x.thread.loop, float64(route.Config.Retry.Budget))
}

// safe reports whether this failure is one that the route tries again after.
func (x *exchange) safe(e *Error) bool {
	on := &x.session.Route.retry
	switch e.kind {
	case failedConnect:
		return on.connect
	case failedRefused:
		return on.refused
	case failedSilent: // not a byte of a response: a reused connection was just being closed
		return on.reset && x.reused && (!e.Sent || x.mayRepeat())
	case failedLate:
		return on.timeout && x.mayBeLate()
	}
	return false
}

// mayBeLate reports whether another backend can be asked for what this one does
// not answer in time: a retry at the same one would find it no faster.
func (x *exchange) mayBeLate() bool {
	others := len(x.view.choices[x.session.Pool.index].candidates) > len(x.tried)
	return others && !x.informed && x.mayRepeat()
}

// patience is how long the response's head may take, and how much more where no
// other attempt can follow after all.
func (x *exchange) patience() (first, then time.Duration) {
	c := x.session.Route.Config
	if c.Timeout.Attempt == 0 || x.session.Attempt >= c.Retry.Attempts || !x.mayBeLate() {
		return c.Timeout.Request, 0
	}
	return c.Timeout.Attempt, c.Timeout.Request - c.Timeout.Attempt
}

// responseLate asks another backend, if that is safe and within the budget; who
// had less than timeout.request has the rest of it if not.
func (x *exchange) responseLate() {
	e := &Error{Status: 504, Source: FromUpstream, Reason: lb.UpstreamTimeout, Sent: true, kind: failedLate}
	rest := x.patient
	x.patient = 0
	switch {
	case rest == 0:
		x.up.abort()
		x.upstreamFailed(e)
	case !x.mayRetry(e):
		x.arm(waitHead, rest)
	default:
		x.up.abort()
		x.gone()
		x.blame(e)
		x.retryPhases(0, e)
	}
}

// again starts the next attempt.
func (x *exchange) again(e *Error) {
	x.thread.retried(x, e)
	x.sending = false
	x.fresh = x.fresh || x.reused && e.kind != failedLate
	x.attempt()
}
