package l7

import (
	"strconv"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
)

// sendHead sends the response's head, after the Response phases.
func (x *exchange) sendHead() {
	res := x.session.Response
	end := x.bodyless
	if x.made {
		end = len(res.Body) == 0
		res.Length = int64(len(res.Body))
		if x.session.Request.Method == "HEAD" {
			end = true
		}
	}
	if !end && x.hasResponseBody() {
		res.Length = -1
	}
	if x.chain.changesOut {
		res.parsed = nil // as in send
	}
	x.headSent = true
	x.status = res.Status
	trailed := len(res.Trailer) > 0 && x.made
	x.down.sendHead(res, end && !trailed)
	switch {
	case end && !trailed:
		x.finish(x.failure)
	case x.made:
		x.sendMade(res)
	}
}

// sendMade sends the body of a response that was made here.
func (x *exchange) sendMade(res *Response) {
	trailers := res.Trailer
	if len(trailers) == 0 {
		x.sendBody(res.Body, true)
		return
	}
	if len(res.Body) > 0 {
		x.sendBody(res.Body, false)
	}
	x.upstreamTrailers(trailers)
}

// sendBody sends a piece of the body through the ResponseBody phases.
func (x *exchange) sendBody(p []byte, end bool) {
	if x.chain.blockingOut && x.hasResponseBody() {
		x.offloadResponseBody(p, end)
		return
	}
	var e *Error
	if len(x.chain.responseBody) > 0 {
		p, e = x.responseBodyPhases(p, end)
	}
	x.deliver(p, end, e)
}

// sendTrailers ends the body with trailers.
func (x *exchange) sendTrailers(h Header) {
	x.session.Trailer = h
	x.sendBody(nil, true)
}

// deliver gives the client a piece of the body, after the phases.
func (x *exchange) deliver(p []byte, end bool, e *Error) {
	if e != nil {
		x.dropAttempt()
		x.abort(e)
		return
	}
	x.bytesOut += int64(len(p))
	switch {
	case end && len(x.session.Trailer) > 0:
		if len(p) > 0 {
			x.down.sendBody(p, false)
		}
		x.down.sendTrailers(x.session.Trailer)
	default:
		x.down.sendBody(p, end)
	}
	if end {
		x.finish(x.failure)
		return
	}
	x.pressBack()
}

// pressBack stops the backend while the client does not read.
func (x *exchange) pressBack() {
	if !x.outPaused && x.up != nil && x.down.buffered() > highWater {
		x.outPaused = true
		x.up.pauseBody()
	}
}

// answer sends a response that was made here, through the Response phases.
func (x *exchange) answer(res *Response) {
	x.made = true
	x.resEnd = true
	x.session.Response = res
	x.responsePhases(0)
}

// fail answers an error, in the words of a filter if one has any; after a
// response has begun it can only be cut off.
func (x *exchange) fail(e *Error) {
	x.failure = e
	if x.headSent {
		x.abort(e)
		return
	}
	x.thread.loop.Rest(&x.timer)
	x.failPhases(0)
}

// answerFailure is the last word: no filter had one.
func (x *exchange) answerFailure() {
	x.made, x.resEnd = true, true
	x.turned = 0 // no phase shapes it
	x.session.Response = errorResponse(x.session.Request, x.failure)
	x.sendHead()
}

// abort cuts the response off, so that it does not look complete.
func (x *exchange) abort(e *Error) {
	x.down.abort(e)
	x.finish(e)
}

// errorResponse is the one place that turns an error into a response.
func errorResponse(req *Request, e *Error) *Response {
	if isGRPC(req) {
		return grpcResponse(e)
	}
	text := strconv.Itoa(e.Status) + " " + h1.Reason(e.Status) + ": " + string(e.Reason) + "\n"
	res := &Response{Status: e.Status, Body: []byte(text)}
	res.Header.Add("Content-Type", "text/plain; charset=utf-8")
	res.Header = append(res.Header, e.Header...)
	if e.Status == 405 {
		res.Header.Add("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
	if e.Status == 503 || e.Status == 429 {
		seconds := max(1, (e.RetryAfter+time.Second-1)/time.Second)
		res.Header.Add("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	return res
}

// respond makes a route's fixed response.
func respond(r *lb.Respond) *Response {
	res := &Response{Status: r.Status, Body: []byte(r.Body)}
	for _, f := range sortedFields(r.Headers) {
		res.Header.Add(f.Name, f.Value)
	}
	if r.Body != "" && !res.Header.Has("content-type") {
		res.Header.Add("Content-Type", "text/plain; charset=utf-8")
	}
	return res
}

// redirect makes a route's redirection.
func redirect(req *Request, r *lb.Redirect) *Response {
	scheme, host, target := r.Scheme, r.Host, r.Path
	if scheme == "" {
		scheme = req.Scheme
	}
	if host == "" {
		if host = req.Host; host == "" && req.Local.IsValid() { // HTTP/1.0 need not say it
			host = req.Local.String()
		}
		if r.Scheme != "" && r.Scheme != req.Scheme {
			host = withoutPort(host) // a port belongs to its scheme
		}
	}
	if target == "" {
		target = req.Target
	}
	res := &Response{Status: r.Status}
	if host != "" { // else who came by a Unix socket stays there
		target = scheme + "://" + host + target
	}
	res.Header.Add("Location", target)
	return res
}
