package l7

import (
	"slices"
	"sync/atomic"

	"github.com/cirque-lb/lb"
)

// waiter waits for room at a backend: a request, or a connection of a TCP proxy.
type waiter interface {
	waitsAt() *endpoint
	tryAgain() bool // it waits no more
}

func (x *exchange) waitsAt() *endpoint { return x.session.Backend.endpoint }

// queue holds a thread's requests that wait for room at a backend, which has
// all the connections or requests that it may have. Its fields are the thread's,
// but for the atomic ones. endpoint.pending bounds all threads' queues.
//
// Whoever leaves room says so (endpoint.freed) and the queues are asked in
// turn. No wake-up is lost: a request counts as pending before it looks for room
// a last time, and room is there before pending is looked at.
type queue struct {
	thread  *thread
	waiting []waiter // first come, first served
	woken   bool     // among the loop's things to do
	count   atomic.Int32
	posted  atomic.Bool // a sibling's thread was told
}

// full is why a request has to wait.
func full() *Error {
	return &Error{Status: 503, Reason: lb.Overload, kind: failedConnect}
}

// isFull reports whether there is no room, rather than no backend.
func isFull(e *Error) bool { return e.Reason == lb.Overload && e.kind == failedConnect }

// hasRoom reports whether b may have one more request: there are limits that
// HTTP/2's connections do not set.
func (b *Backend) hasRoom() bool {
	limit := b.pool.Config.Connections.Requests
	return limit == 0 || b.load.active.Load() < int64(limit)
}

// enqueue makes x wait for room at b, if there is a place in the queue.
func (x *exchange) enqueue(b *Backend) bool {
	if x.queued = x.thread.enqueue(x, b); x.queued == nil {
		return false
	}
	x.arm(waitRoom, b.pool.Config.Connections.ConnectTimeout)
	return true
}

// enqueue finds w a place in b's queue; nil: there is none.
func (t *thread) enqueue(w waiter, b *Backend) *queue {
	e := b.endpoint
	if e.pending.Add(1) > int64(b.pool.Config.Connections.Pending) {
		e.pending.Add(-1)
		t.tally.event("lbd_upstream_pending_total", "pool", b.pool.Name(), "outcome", "full")
		return nil
	}
	q := &e.queues[t.index]
	if q.thread == nil { // once: siblings read it when there is a count
		q.thread = t
	}
	q.waiting = append(q.waiting, w)
	q.count.Add(1)
	q.wake()
	return q
}

// leaveQueue takes x out, however it ended.
func (x *exchange) leaveQueue(outcome string) {
	x.queued.leave(x, x.session.Backend, outcome)
	x.queued = nil
}

func (q *queue) leave(w waiter, b *Backend, outcome string) {
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.count.Add(-1)
	b.endpoint.pending.Add(-1)
	q.thread.tally.event("lbd_upstream_pending_total", "pool", b.pool.Name(), "outcome", outcome)
}

// freed says, on t, that there may be room at e.
func (e *endpoint) freed(t *thread) {
	if e.pending.Load() == 0 {
		return
	}
	first := int(e.asked.Add(1))
	for i := range e.queues {
		q := &e.queues[(first+i)%len(e.queues)]
		if q.count.Load() == 0 {
			continue
		}
		if q.thread == t {
			q.wake()
		} else if !q.posted.Swap(true) {
			q.thread.loop.Post(func() {
				q.posted.Store(false)
				q.wake()
			})
		}
		return
	}
}

// wake asks the queue before the turn ends, not now: who leaves room is in the
// middle of something.
func (q *queue) wake() {
	if !q.woken {
		q.woken = true
		q.thread.loop.Later(q)
	}
}

// RunLater serves as many as there is room for.
func (q *queue) RunLater() {
	q.woken = false
	for len(q.waiting) > 0 {
		w := q.waiting[0]
		e := w.waitsAt()
		if !w.tryAgain() {
			return
		}
		if len(q.waiting) == 0 {
			e.freed(q.thread) // the wake-up may have been meant for a sibling, too
		}
	}
}

// tryAgain reports whether x waits no more.
func (x *exchange) tryAgain() bool {
	b := x.session.Backend
	if !b.hasRoom() {
		return false
	}
	up, reused, err := x.thread.connect(x, b, x.fresh)
	if err != nil && isFull(err) {
		return false
	}
	x.leaveQueue("served")
	x.dialed = x.thread.loop.Now()
	b.load.active.Add(1)
	x.upActive = true
	x.take(b, up, reused, err)
	return true
}
