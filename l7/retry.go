package l7

import (
	"slices"

	"github.com/cirque-lb/lb"
)

// retryOn is which failures a route tries again after.
type retryOn struct{ connect, reset, refused bool }

func newRetryOn(names []string) retryOn {
	return retryOn{slices.Contains(names, "connect"), slices.Contains(names, "reset"), slices.Contains(names, "refused")}
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
	return x.reused && r.retry.reset && idempotent(x.session.Request.Method)
}

// idempotent methods may be sent twice (RFC 9110 section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE":
		return true
	}
	return false
}

// attemptFailed tries again when that is safe, and fails when not.
func (x *exchange) attemptFailed(e *Error) {
	if r := x.session.Response; r == nil || r.Status < 500 { // else it is counted
		x.session.Backend.load.failed()
	}
	x.observeFailure(e)
	switch {
	case x.headSent:
		x.abort(e)
	case x.mayRetry(e):
		x.retryPhases(0, e)
	default:
		x.fail(e)
	}
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
	on := x.session.Route.retry
	switch e.kind {
	case failedConnect:
		return on.connect
	case failedRefused:
		return on.refused
	case failedSilent: // not a byte of a response: a reused connection was just being closed
		return on.reset && x.reused && (!e.Sent || idempotent(x.session.Request.Method))
	}
	return false
}

// again starts the next attempt.
func (x *exchange) again(e *Error) {
	x.thread.retried(x, e)
	x.sending = false
	x.fresh = x.fresh || x.reused
	x.attempt()
}
