package l7

import (
	"context"
	"slices"

	"github.com/cirque-lb/lb"
)

// maxBlocking is how many Blocking phases run at once in a proxy.
const maxBlocking = 256

// heldEvent is what happened to an exchange while a phase ran off the loop.
type heldEvent struct {
	kind     heldKind
	data     []byte
	header   Header
	response *Response // the exchange's own
	end      bool
	err      *Error
}

type heldKind uint8

const (
	heldBody heldKind = iota
	heldTrailers
	heldRefuse
	heldGone
	heldUpHead
	heldUpBody
	heldUpTrailers
	heldUpFailed
	heldConnected
)

// offload runs a phase on a goroutine and then on the loop. The loop leaves the
// session alone meanwhile: both sides pause, and what they had read already is
// held.
func (x *exchange) offload(phase func() (*Response, error), then func(*Response, error)) {
	p := x.thread.proxy
	if p.blocking.Add(1) > maxBlocking {
		p.blocking.Add(-1)
		then(nil, &Error{Status: 503, Reason: lb.Overload})
		return
	}
	x.session.ctx, x.cancel = context.WithTimeout(context.Background(), x.session.Route.Config.Timeout.Request)
	x.suspended = true
	if !x.over {
		x.pauseBoth()
	}
	go x.runPhase(phase, then)
}

func (x *exchange) pauseBoth() {
	x.pauseIn()
	if x.up != nil {
		x.up.pauseBody()
		x.outPaused = true
	}
}

// The phases that may be offloaded, each going on with the one behind it. They
// are apart from their loops so that these allocate nothing.

func (x *exchange) offloadRequest(i, k int) {
	f := &x.chain.filters[i]
	x.offload(func() (*Response, error) { return x.callRequest(f) }, func(res *Response, err error) {
		if x.passed(i, res, err) {
			x.requestPhases(k + 1)
		}
	})
}

func (x *exchange) offloadPick(i, k int) {
	f := &x.chain.filters[i]
	var b *Backend
	x.offload(func() (_ *Response, err error) { b, err = x.callPick(f); return nil, err }, func(_ *Response, err error) {
		if !x.picked(i, b, err) {
			x.pickPhases(k + 1)
		}
	})
}

func (x *exchange) offloadUpstream(i, k int) {
	f := &x.chain.filters[i]
	x.offload(func() (*Response, error) { return nil, x.callUpstream(f) }, func(_ *Response, err error) {
		if x.edited(i, err) {
			x.upstreamPhases(k + 1)
		}
	})
}

func (x *exchange) offloadResponse(i, k int) {
	f := &x.chain.filters[i]
	x.offload(func() (*Response, error) { return nil, x.callResponse(f) }, func(_ *Response, err error) {
		if x.shaped(i, err) {
			x.responsePhases(k + 1)
		}
	})
}

func (x *exchange) offloadRetry(f *Filter, k int, e *Error) {
	again := false
	x.offload(func() (*Response, error) { again = x.callRetry(f, e); return nil, nil }, func(_ *Response, err error) {
		if !again {
			x.fail(e)
			return
		}
		x.retryPhases(k+1, e)
	})
}

func (x *exchange) offloadFail(i, k int) {
	f, e := &x.chain.filters[i], x.failure
	x.offload(func() (*Response, error) { return x.callFail(f, e), nil }, func(res *Response, _ error) {
		if !x.consoled(i, res) {
			x.failPhases(k + 1)
		}
	})
}

func (x *exchange) offloadLog(f *Filter, k int) {
	x.offload(func() (*Response, error) { x.callLog(f); return nil, nil }, func(*Response, error) { x.logPhases(k + 1) })
}

// Body phases run off the loop together if one of them blocks.

func (x *exchange) offloadRequestBody(p []byte, end bool, trailers Header) {
	p = slices.Clone(p)
	var out []byte
	x.offload(func() (*Response, error) {
		var e *Error
		out, e = x.requestBodyPhases(p, end)
		return nil, orNil(e)
	}, func(_ *Response, err error) { x.bodyTaken(out, end, trailers, asError(err)) })
}

func (x *exchange) offloadResponseBody(p []byte, end bool) {
	p = slices.Clone(p)
	var out []byte
	x.offload(func() (*Response, error) {
		var e *Error
		out, e = x.responseBodyPhases(p, end)
		return nil, orNil(e)
	}, func(_ *Response, err error) { x.deliver(out, end, asError(err)) })
}

func orNil(e *Error) error {
	if e == nil {
		return nil
	}
	return e
}

// asError takes orNil back.
func asError(err error) *Error {
	if err == nil {
		return nil
	}
	return err.(*Error)
}

func (x *exchange) runPhase(phase func() (*Response, error), then func(*Response, error)) {
	res, err := phase()
	x.thread.proxy.blocking.Add(-1)
	x.thread.loop.Post(func() { x.resume(res, err, then) })
}

// resume goes on where offload left, then with what was held.
func (x *exchange) resume(res *Response, err error, then func(*Response, error)) {
	x.suspended = false
	x.cancel()
	x.session.ctx, x.cancel = nil, nil
	held := x.held
	x.held = nil
	if i := slices.IndexFunc(held, func(h heldEvent) bool { return h.kind == heldGone }); i >= 0 && !x.over {
		x.finish(held[i].err)
		return
	}
	number := x.number
	then(res, err)
	x.catchUp(number, held)
}

// catchUp lets happen what was held, as long as the exchange is the same, and
// lets both sides go on.
func (x *exchange) catchUp(number uint64, held []heldEvent) {
	for i, h := range held {
		if x.number != number || x.over {
			return
		}
		if x.suspended {
			x.held = append(x.held, held[i:]...)
			return
		}
		x.happen(h)
	}
	if x.number != number || x.over || x.suspended {
		return
	}
	if x.outPaused && x.down.buffered() <= highWater {
		x.clientDrained()
	}
	if x.inPaused && (x.sending && x.up.buffered() < highWater || !x.sending && len(x.kept) < highWater) {
		x.letIn()
	}
}

func (x *exchange) happen(h heldEvent) {
	switch h.kind {
	case heldBody:
		x.requestBody(h.data, h.end)
	case heldTrailers:
		x.requestTrailers(h.header)
	case heldRefuse:
		x.refuse(x.session.Request, h.err)
	case heldUpHead:
		if !x.made { // else the phase had an answer of its own
			x.upstreamHead(h.response, h.end)
		}
	case heldUpBody:
		x.upstreamBody(h.data, h.end)
	case heldUpTrailers:
		x.upstreamTrailers(h.header)
	case heldUpFailed:
		x.attemptFailed(h.err)
	case heldConnected:
		if x.up != nil { // it may have been given up since
			x.connected()
		}
	}
}

// hold keeps an event for later if a phase runs off the loop. Both sides are
// paused, so what can come is what one read brought.
func (x *exchange) hold(h heldEvent) bool {
	if !x.suspended {
		return false
	}
	if h.kind == heldGone {
		x.cancel()
	}
	h.data = slices.Clone(h.data)
	h.header = slices.Clone(h.header)
	x.held = append(x.held, h)
	return true
}
