package l7

import (
	"errors"
	"math/rand/v2"

	"github.com/cirque-lb/lb"
)

// replayLimit is how much of a body is kept to be sent again.
const replayLimit = 64 << 10

// highWater is how many unsent bytes make the other side stop reading.
const highWater = 64 << 10

// dispatch follows the Request phases: the route answers, or a pool does.
func (x *exchange) dispatch() {
	route := x.session.Route
	switch {
	case route.Config.Redirect != nil:
		x.answer(redirect(x.session.Request, route.Config.Redirect))
		return
	case route.Config.Respond != nil:
		x.answer(respond(route.Config.Respond))
		return
	}
	pool := x.session.Pool // a filter may have chosen one
	if pool == nil {
		pool = route.pick(rand.Uint64())
	}
	if pool == nil {
		x.fail(&Error{Status: 503, Reason: lb.NoHealthyBackend})
		return
	}
	x.session.Pool = pool
	pool.budget.request(x.thread.loop)
	x.attempt()
}

// attempt picks a backend and connects; connected, connectFailed or the timer
// follows.
func (x *exchange) attempt() {
	x.session.Attempt++
	x.session.Backend = nil
	x.pickPhases(0)
}

// pick asks the pool's balancer.
func (x *exchange) pick() {
	b := x.view.pick(x.thread, x.session.Pool, x, &x.tried)
	if b == nil {
		x.fail(&Error{Status: 503, Reason: lb.NoHealthyBackend})
		return
	}
	x.connect(b)
}

// connect takes an idle connection to b, or makes one, or waits for room.
func (x *exchange) connect(b *Backend) {
	x.session.Backend = b
	x.dialed = x.thread.loop.Now()
	b.load.requests.Add(1)
	if b.endpoint.queues[x.thread.index].count.Load() == 0 && b.hasRoom() {
		up, reused, err := x.thread.connect(x, b, x.fresh)
		if err == nil || !isFull(err) {
			b.load.active.Add(1)
			x.upActive = true
			x.take(b, up, reused, err)
			return
		}
	}
	if !x.enqueue(b) {
		x.attemptFailed(full())
	}
}

// take goes on with what connect found.
func (x *exchange) take(b *Backend, up upstream, reused bool, err *Error) {
	if err != nil {
		x.gone()
		x.attemptFailed(err)
		return
	}
	x.up, x.reused = up, reused
	if reused {
		x.connected()
		return
	}
	x.waitConnect(b.pool.Config.Connections.ConnectTimeout)
}

// connected: the attempt has its connection, which was told to expect a request.
func (x *exchange) connected() {
	x.wait = waitNothing // a phase off the loop may take longer than connecting
	if x.hold(heldEvent{kind: heldConnected}) {
		return
	}
	x.buildUpstream()
	x.upstreamPhases(0)
}

// send passes on the head and what there is of the body.
func (x *exchange) send() {
	if x.chain.changesIn {
		if !cleanLine(&x.request) {
			x.dropAttempt()
			x.fail(&Error{Status: 500, Reason: lb.FilterError, Err: errUncleanLine})
			return
		}
		x.request.parsed = nil // a filter may have kept a string too long: look at all again
	}
	if x.mirror != nil {
		x.mirrorHead()
	}
	x.sent = x.thread.loop.Now()
	x.sending = true
	bodyless := x.reqEnd && len(x.kept) == 0 && len(x.trailers) == 0
	x.up.sendHead(&x.request, bodyless)
	x.waitResponse()
	if bodyless {
		return
	}
	x.sendKept()
}

var errUncleanLine = errors.New("a filter made a method or target that ends its line")

// cleanLine reports whether method and target stay within their places in a
// request line: parsed ones do, those of filters might not.
func cleanLine(r *Request) bool {
	for _, s := range [2]string{r.Method, r.Target} {
		for i := range len(s) {
			if s[i] <= ' ' || s[i] == 0x7f {
				return false
			}
		}
		if s == "" {
			return false
		}
	}
	return true
}

// sendKept sends the body as far as it came while there was no connection.
func (x *exchange) sendKept() {
	x.up.sendBody(x.kept, x.reqEnd && len(x.trailers) == 0)
	if x.reqEnd && len(x.trailers) > 0 {
		x.up.sendTrailers(x.trailers)
	}
	if !x.replayable() {
		x.dropKept()
	}
	if x.inPaused && x.up.buffered() < highWater {
		x.letIn()
	}
}

// takeBody runs a piece of the body through the filters and passes it on.
func (x *exchange) takeBody(p []byte, end bool, trailers Header) {
	if x.chain.blockingIn && x.hasRequestBody() {
		x.offloadRequestBody(p, end, trailers)
		return
	}
	var e *Error
	if len(x.chain.requestBody) > 0 {
		p, e = x.requestBodyPhases(p, end)
	}
	x.bodyTaken(p, end, trailers, e)
}

func (x *exchange) bodyTaken(p []byte, end bool, trailers Header, e *Error) {
	if e != nil {
		x.dropAttempt()
		x.fail(e)
		return
	}
	x.reqEnd, x.trailers = end, trailers
	x.forward(p)
}

// forward sends a piece of the body to the backend, or keeps it until there is
// one; a replayable body is kept anyway. reqEnd and trailers are set already.
func (x *exchange) forward(p []byte) {
	if x.mirror != nil {
		x.mirrorBody(p)
	}
	if x.resEnd {
		return // answered already: nobody wants it
	}
	if x.keeping && (!x.sending || x.replayable() && len(x.kept)+len(p) <= replayLimit) {
		x.kept = x.thread.loop.Append(x.kept, p)
	} else {
		x.dropKept()
	}
	if !x.sending {
		if len(x.kept) >= highWater {
			x.pauseIn()
		}
		return
	}
	trailed := x.reqEnd && len(x.trailers) > 0
	x.up.sendBody(p, x.reqEnd && !trailed)
	if trailed {
		x.up.sendTrailers(x.trailers)
	}
	if x.up.buffered() > highWater {
		x.pauseIn()
	}
	x.bodyCame(len(p))
	x.waitResponse()
}

// letIn takes pauseIn back.
func (x *exchange) letIn() {
	x.inPaused = false
	x.bodyDue = 0
	x.down.resumeBody()
}

func (x *exchange) pauseIn() {
	if !x.inPaused && !x.reqEnd {
		x.inPaused = true
		x.down.pauseBody()
	}
}

// dropKept forgets the body: it will not be sent again.
func (x *exchange) dropKept() {
	if x.kept != nil {
		x.thread.loop.Recycle(x.kept[:0])
		x.kept = nil
	}
	x.keeping = false
}

// roomForFields is how many fields a head holds without moving, those that
// filters add included.
const roomForFields = 32

// replyRoom makes room for an attempt's response.
func (x *exchange) replyRoom() *answerH1 {
	if x.reply != nil {
		x.thread.answers.put(x.reply)
	}
	x.reply = x.thread.answers.get()
	if cap(x.reply.parsed.Fields) < roomForFields {
		x.reply.parsed.Fields = make([]Field, 0, roomForFields)
	}
	return x.reply
}

// gone: the attempt has no upstream any more.
func (x *exchange) gone() {
	if x.queued != nil {
		x.leaveQueue("gone")
	}
	x.up = nil
	x.wait = waitNothing
	x.sending = false
	if x.upActive {
		x.upActive = false
		x.session.Backend.load.end()
		x.session.Backend.endpoint.freed(x.thread)
	}
}

// letGo is gone after a whole response. A request that was not read whole goes
// no further.
func (x *exchange) letGo() {
	x.gone()
	x.thread.loop.Rest(&x.timer)
	x.dropKept()
	x.resEnd = true
}

// dropAttempt gives up the current attempt, if there is one.
func (x *exchange) dropAttempt() {
	if x.up != nil {
		x.up.abort()
	}
	x.gone()
	x.dropKept()
}
