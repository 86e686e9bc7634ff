package l7

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cirque-lb/lb"
)

// requestPhases runs the Request phases from the k-th on, first to last, and
// goes on to dispatch.
func (x *exchange) requestPhases(k int) {
	for ; k < len(x.chain.request); k++ {
		i := x.chain.request[k]
		f := &x.chain.filters[i]
		x.entered = i + 1
		x.calling = i
		if f.Blocking && !x.callInline(f) {
			x.offloadRequest(i, k)
			return
		}
		if res, err := x.callRequest(f); !x.passed(i, res, err) {
			return
		}
	}
	x.entered = len(x.chain.filters)
	x.dispatch()
}

// passed reports whether the i-th filter lets the request go on; else the way
// out has begun, before it.
func (x *exchange) passed(i int, res *Response, err error) bool {
	switch {
	case err != nil:
		x.turned = i
		x.fail(x.filterError(i, err))
	case res != nil:
		x.turned = i
		x.answer(res)
	default:
		return true
	}
	return false
}

// pickPhases asks the filters for a backend, then the balancer.
func (x *exchange) pickPhases(k int) {
	for ; k < len(x.chain.pick); k++ {
		i := x.chain.pick[k]
		f := &x.chain.filters[i]
		if f.Blocking {
			x.offloadPick(i, k)
			return
		}
		if b, err := x.callPick(f); x.picked(i, b, err) {
			return
		}
	}
	x.pick()
}

// picked reports whether the i-th filter's word ends the choice.
func (x *exchange) picked(i int, b *Backend, err error) bool {
	switch {
	case err != nil:
		x.fail(x.filterError(i, err))
	case b != nil:
		x.connect(b)
	default:
		return false
	}
	return true
}

// upstreamPhases makes the last edits of what the backend gets, and sends it.
func (x *exchange) upstreamPhases(k int) {
	for ; k < len(x.chain.upstream); k++ {
		i := x.chain.upstream[k]
		f := &x.chain.filters[i]
		if f.Blocking {
			x.offloadUpstream(i, k)
			return
		}
		if !x.edited(i, x.callUpstream(f)) {
			return
		}
	}
	x.send()
}

func (x *exchange) edited(i int, err error) bool {
	if err != nil {
		x.dropAttempt()
		x.fail(x.filterError(i, err))
		return false
	}
	if x.up == nil { // the backend went away while a phase blocked
		return false
	}
	return true
}

// retryPhases asks the filters, who may say no.
func (x *exchange) retryPhases(k int, e *Error) {
	for ; k < len(x.chain.retry); k++ {
		f := &x.chain.filters[x.chain.retry[k]]
		if f.Blocking {
			x.offloadRetry(f, k, e)
			return
		}
		if !x.callRetry(f, e) {
			x.fail(e)
			return
		}
	}
	x.again(e)
}

// responsePhases runs the Response phases from the k-th on, last to first,
// starting before the filter that turned around, and sends the head.
func (x *exchange) responsePhases(k int) {
	for ; k < len(x.chain.response); k++ {
		i := x.chain.response[k]
		if i >= x.turned {
			continue
		}
		f := &x.chain.filters[i]
		x.calling = i
		if f.Blocking {
			x.offloadResponse(i, k)
			return
		}
		if !x.shaped(i, x.callResponse(f)) {
			return
		}
	}
	x.sendHead()
}

// shaped: a filter that fails on the way out leaves those before it to answer.
func (x *exchange) shaped(i int, err error) bool {
	if err == nil {
		return true
	}
	x.turned = i
	x.dropAttempt()
	x.fail(x.filterError(i, err))
	return false
}

// requestBodyPhases runs p through the filters that saw the request.
func (x *exchange) requestBodyPhases(p []byte, end bool) ([]byte, *Error) {
	for _, i := range x.chain.requestBody {
		if i >= x.turned {
			break
		}
		if x.passIn>>i&1 != 0 {
			continue
		}
		var err error
		if p, err = x.callBody(i, phaseRequestBody, x.chain.filters[i].RequestBody, p, end); err != nil {
			return nil, x.filterError(i, err)
		}
	}
	return p, nil
}

// responseBodyPhases does the same on the way out.
func (x *exchange) responseBodyPhases(p []byte, end bool) ([]byte, *Error) {
	for _, i := range x.chain.responseBody {
		if i >= x.turned || x.passOut>>i&1 != 0 {
			continue
		}
		var err error
		if p, err = x.callBody(i, phaseResponseBody, x.chain.filters[i].ResponseBody, p, end); err != nil {
			return nil, x.filterError(i, err)
		}
	}
	return p, nil
}

// hasResponseBody reports whether a filter may change the body.
func (x *exchange) hasResponseBody() bool {
	for _, i := range x.chain.responseBody {
		if i < x.turned && x.passOut>>i&1 == 0 {
			return true
		}
	}
	return false
}

// hasRequestBody is the same for the way in.
func (x *exchange) hasRequestBody() bool {
	for _, i := range x.chain.requestBody {
		if i < x.turned && x.passIn>>i&1 == 0 {
			return true
		}
	}
	return false
}

// passBody is Session.PassBody of the filter that is called now. The masks have
// room for a chain's first 64 filters; the others see every body.
func (x *exchange) passBody() {
	if x.session.Response == nil {
		x.passIn |= 1 << x.calling
	} else {
		x.passOut |= 1 << x.calling
	}
}

// failPhases looks for a filter that has a response for x.failure, from the k-th
// on, last to first. Without one the proxy answers itself.
func (x *exchange) failPhases(k int) {
	for ; k < len(x.chain.fail); k++ {
		i := x.chain.fail[k]
		if i >= x.turned {
			continue
		}
		f := &x.chain.filters[i]
		if f.Blocking {
			x.offloadFail(i, k)
			return
		}
		if x.consoled(i, x.callFail(f, x.failure)) {
			return
		}
	}
	x.answerFailure()
}

// consoled reports whether the i-th filter had a response.
func (x *exchange) consoled(i int, res *Response) bool {
	if res == nil {
		return false
	}
	x.turned = i
	x.answer(res)
	return true
}

// logPhases tells, from the k-th on, every filter whose Request was, or would
// have been, entered, and completes the exchange.
func (x *exchange) logPhases(k int) {
	for ; k < len(x.chain.log); k++ {
		i := x.chain.log[k]
		if i >= x.entered {
			continue
		}
		f := &x.chain.filters[i]
		if f.Blocking {
			x.offloadLog(f, k)
			return
		}
		x.callLog(f)
	}
	x.complete()
}

// The calls, each isolated: a panic becomes an error that names its place.

func (x *exchange) callRequest(f *Filter) (res *Response, err error) {
	defer x.rescue(f, "Request", &err)
	if x.timed {
		defer x.clock(f, phaseRequest, time.Now())
	}
	return f.Request(&x.session)
}

func (x *exchange) callInline(f *Filter) (inline bool) {
	if f.Inline == nil {
		return false
	}
	var err error
	defer x.rescue(f, "Inline", &err)
	return f.Inline(&x.session)
}

func (x *exchange) callPick(f *Filter) (b *Backend, err error) {
	defer x.rescue(f, "Pick", &err)
	if x.timed {
		defer x.clock(f, phasePick, time.Now())
	}
	return f.Pick(&x.session)
}

func (x *exchange) callUpstream(f *Filter) (err error) {
	defer x.rescue(f, "Upstream", &err)
	if x.timed {
		defer x.clock(f, phaseUpstream, time.Now())
	}
	return f.Upstream(&x.session, &x.request)
}

func (x *exchange) callRetry(f *Filter, e *Error) (again bool) {
	var err error
	defer x.rescue(f, "Retry", &err) // after a panic again is false
	if x.timed {
		defer x.clock(f, phaseRetry, time.Now())
	}
	return f.Retry(&x.session, e)
}

func (x *exchange) callResponse(f *Filter) (err error) {
	defer x.rescue(f, "Response", &err)
	if x.timed {
		defer x.clock(f, phaseResponse, time.Now())
	}
	return f.Response(&x.session, x.session.Response)
}

func (x *exchange) callBody(i int, which phase, body func(*Session, []byte, bool) ([]byte, error), p []byte, end bool) (out []byte, err error) {
	f, name := &x.chain.filters[i], "RequestBody"
	if which == phaseResponseBody {
		name = "ResponseBody"
	}
	defer x.rescue(f, name, &err)
	if x.timed {
		defer x.clock(f, which, time.Now())
	}
	return body(&x.session, p, end)
}

func (x *exchange) callFail(f *Filter, e *Error) (res *Response) {
	var err error
	defer x.rescue(f, "Fail", &err)
	if x.timed {
		defer x.clock(f, phaseFail, time.Now())
	}
	return f.Fail(&x.session, e)
}

func (x *exchange) callLog(f *Filter) {
	var err error
	defer x.rescue(f, "Log", &err)
	if x.timed {
		defer x.clock(f, phaseLog, time.Now())
	}
	f.Log(&x.session, x.reported())
}

// reported is the failure as an error that may be nil.
func (x *exchange) reported() error {
	if x.failure == nil {
		return nil
	}
	return x.failure
}

// rescue makes an error of a panic.
func (x *exchange) rescue(f *Filter, phase string, err *error) {
	r := recover()
	if r == nil {
		return
	}
	*err = &Error{Status: 500, Reason: lb.FilterPanic, Err: fmt.Errorf("filter %s panicked in %s: %v", f.Name, phase, r)}
	x.thread.tally.panicked(f.Name)
	x.thread.proxy.log.Error("filter panicked", "filter", f.Name, "phase", phase, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
}

// filterError makes what the i-th filter returned an *Error.
func (x *exchange) filterError(i int, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		if e.Status == 0 {
			e = &Error{Status: 500, Source: e.Source, Reason: e.Reason, Err: e.Err}
		}
		return e
	}
	return &Error{Status: 500, Reason: lb.FilterError, Err: fmt.Errorf("filter %s: %w", x.chain.filters[i].Name, err)}
}
