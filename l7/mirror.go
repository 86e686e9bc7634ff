package l7

import "strings"

// copied is a request that another pool gets, too: what the backend gets, once
// it has all of it. Nobody reads the answer, and nothing that becomes of the
// copy shows in the request.
type copied struct {
	pool    *Pool
	body    []byte
	request *Request // its head, once the backend has that
}

// A thread has at most so many copies under way; what is beyond, and what has a
// larger body, is not copied, but counted.
const (
	maxCopies   = 128
	maxCopyBody = replayLimit
)

// Mirror sends a copy of what the backend gets to another pool. It is for
// Request phases; a request has one copy at most.
func (s *Session) Mirror(pool *Pool) {
	if s.x != nil && pool != nil && s.Request.Upgrade == "" {
		s.x.mirror = &copied{pool: pool}
	}
}

// mirrorHead takes a copy of the head that goes to the backend: of the first
// attempt, for the others are the same request.
func (x *exchange) mirrorHead() {
	c := x.mirror
	if c == nil || c.request != nil {
		return
	}
	c.request = x.request.clone()
	c.request.Header.Del("expect") // the body is here already
	x.mirrorBody(nil)
}

// mirrorBody takes a copy of a piece of the body, as filters left it, and sends
// the copy when it is whole.
func (x *exchange) mirrorBody(p []byte) {
	c := x.mirror
	if c == nil {
		return
	}
	if len(c.body)+len(p) > maxCopyBody {
		x.thread.countCopy(c.pool, "too_large")
		x.mirror = nil
		return
	}
	c.body = append(c.body, p...)
	if c.request == nil || !x.reqEnd {
		return
	}
	x.mirror = nil
	if x.thread.copies >= maxCopies {
		x.thread.countCopy(c.pool, "busy")
		return
	}
	x.sendCopy(c)
}

// sendCopy makes the copy an exchange of its own, without filters.
func (x *exchange) sendCopy(c *copied) {
	t := x.thread
	t.copies++
	y := t.exchange(copySink{t})
	y.copyOf = c.pool
	y.start(c.request)
	y.view = x.view
	y.chain = &noChain
	route := *x.session.Route
	route.chain = noChain
	y.session.Route, y.session.Pool = &route, c.pool
	y.deadline = y.began + route.Config.Timeout.Total
	y.reqEnd, y.keeping = true, true
	y.trailers = x.trailers.Clone()
	y.kept = t.loop.Append(nil, c.body)
	y.bytesIn = int64(len(c.body))
	c.pool.budget.request(t.loop)
	y.attempt()
}

// countCopy counts what became of a copy.
func (t *thread) countCopy(pool *Pool, result string) {
	t.tally.event("lbd_mirrored_requests_total", "pool", pool.Name(), "result", result)
}

// recordCopy is what record is for a request that a client waits for.
func (t *thread) recordCopy(x *exchange) {
	result := "sent"
	if x.failure != nil {
		result = "failed"
	}
	t.countCopy(x.copyOf, result)
}

// copySink is the client of a copy: it takes everything.
type copySink struct{ t *thread }

func (copySink) sendInfo(int, Header)     {}
func (copySink) sendHead(*Response, bool) {}
func (copySink) sendBody([]byte, bool)    {}
func (copySink) sendTrailers(Header)      {}
func (copySink) pauseBody()               {}
func (copySink) resumeBody()              {}
func (copySink) buffered() int            { return 0 }
func (copySink) room() int                { return bulk }
func (copySink) known() bool              { return false }
func (copySink) abort(*Error)             {}
func (n copySink) done()                  { n.t.copies-- }

// clone is the request with strings of its own.
func (r *Request) clone() *Request {
	c := *r
	for _, s := range []*string{&c.Method, &c.Scheme, &c.Host, &c.Target, &c.Upgrade, &c.Listener, &c.ServerName, &c.Certificate} {
		*s = strings.Clone(*s)
	}
	c.Header = r.Header.Clone()
	c.parsed = nil
	return &c
}
