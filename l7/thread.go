package l7

import (
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
	"github.com/cirque-lb/lb/l7/loop"
)

// thread is one loop with what belongs to it. Its fields are the loop's, but
// for the counters, which anybody may read.
type thread struct {
	proxy *Proxy
	index int
	loop  *loop.Loop

	text      []byte // heads are composed here before they are written
	exchanges []*exchange
	answers   freelist[answerH1, *answerH1]
	h2        threadH2
	turns     freelist[turnH1, *turnH1]
	clients   clientList
	active    []*exchange       // those under way
	copies    int               // mirrored ones among them
	warming   []*clientH1       // connections under way that nobody waits for
	listeners map[int]*acceptor // by descriptor
	sweeper   loop.Timer
	date      dateCache
	give      func(Handed)  // hands connections over; nil: nobody takes them
	leaving   bool          // the proxy drains
	grace     time.Duration // of idle connections, then

	lately   lately       // the listener of the last request
	sample   uint         // counts requests with filters
	requests atomic.Int64 // in progress
	counts   counts
	tally    tally
	refusals refusals
	flight   flight
}

// counts are a thread's counters of events.
type counts struct {
	dials     atomic.Uint64 // connections to backends made
	reuses    atomic.Uint64 // requests that found an idle one
	takeovers atomic.Uint64 // of those, a sibling's
	stale     atomic.Uint64 // idle ones that were found dead
	accepts   atomic.Uint64
	refused   atomic.Uint64 // client connections over the limit
}

func newThread(p *Proxy, index int) (*thread, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	t := &thread{proxy: p, index: index, loop: l, h2: newThreadH2(), text: make([]byte, 0, 4<<10), listeners: map[int]*acceptor{}}
	l.Set(&t.sweeper, sweepEvery, t)
	return t, nil
}

// Expired sweeps the idle connections.
func (t *thread) Expired(*loop.Timer) {
	for _, e := range *t.proxy.endpointList.Load() {
		e.sweep(t)
	}
	t.warm()
	t.loop.Set(&t.sweeper, sweepEvery, t)
}

// exchange makes a new exchange for a downstream.
func (t *thread) exchange(d downstream) *exchange {
	if n := len(t.exchanges); n > 0 {
		x := t.exchanges[n-1]
		t.exchanges = t.exchanges[:n-1]
		x.down = d
		return x
	}
	return &exchange{thread: t, down: d}
}

// maxSpare bounds how many objects of a kind a thread keeps for reuse.
const maxSpare = 1024

// recycle takes an exchange back. What it points to is forgotten, its memory is
// kept.
func (t *thread) recycle(x *exchange) {
	if t.proxy.options.Spoil {
		x.spoil()
	}
	if x.reply != nil {
		t.answers.put(x.reply)
	}
	if len(t.exchanges) >= maxSpare || cap(x.text) > 4<<10 || cap(x.request.parsed) > keepHead {
		t.loop.Stop(&x.timer)
		return
	}
	x.session.resetLocals()
	number, locals, header, text, tried, timer := x.number, x.session.locals, x.request.Header[:0], x.text[:0], x.tried[:0], x.timer
	clear(x.response.Header) // its strings are nobody's memory but their own
	fields := x.response.Header[:0]
	*x = exchange{}
	x.thread, x.number, x.timer = t, number+1, timer // which rests: the wheel still knows it
	x.session.locals, x.request.Header, x.response.Header, x.text, x.tried = locals, header, fields, text, tried
	t.exchanges = append(t.exchanges, x)
}

// spoil overwrites what x lent to filters.
func (x *exchange) spoil() {
	spoiled := Field{Name: "spoiled", Value: "kept without a copy"}
	headers := []Header{x.request.Header, x.response.Header}
	texts := [][]byte{x.text[:cap(x.text)]}
	if x.reply != nil {
		headers = append(headers, x.reply.response.Header)
		texts = append(texts, x.reply.head)
	}
	if x.session.Request != nil {
		headers = append(headers, x.session.Request.Header)
	}
	for _, h := range headers {
		for i := range h {
			h[i] = spoiled
		}
	}
	for _, b := range texts {
		for i := range b {
			b[i] = '!'
		}
	}
}

// lately is a listener that was looked up, nearly always the next one, too.
type lately struct {
	snapshot *Snapshot
	name     string
	listener *listener
}

func (t *thread) listenerOf(s *Snapshot, name string) *listener {
	if l := &t.lately; l.snapshot != s || l.name != name {
		*l = lately{s, name, s.listeners[name]}
	}
	return t.lately.listener
}

// connect finds a connection to b for x: an idle one, which is ready, or a new
// one, of which connected or upstreamFailed tells later.
func (t *thread) connect(x *exchange, b *Backend, fresh bool) (upstream, bool, *Error) {
	e := b.endpoint
	if e.key.protocol != lb.HTTP1 {
		return t.connectH2(x, b)
	}
	for !fresh {
		c := e.take(t, e.bound(x.session.Request))
		if c == nil {
			break
		}
		if (c.suspect || !x.mayRepeat()) && c.t == &c.conn && !quiet(c.conn.FD()) {
			t.counts.stale.Add(1) // the request could not be sent again: look first
			c.close()
			continue
		}
		t.counts.reuses.Add(1)
		c.limits = &b.pool.Config.Connections
		c.expect(x)
		return c, true, nil
	}
	if e.open.Load() >= int64(b.pool.Config.Connections.PerBackend) && e.idle.Load() > 0 {
		e.evict(t) // one that x must not have stands in its way
	}
	if e.open.Load() >= int64(b.pool.Config.Connections.PerBackend) {
		return nil, false, full()
	}
	c, err := t.dialH1(x, b)
	if err != nil && t.spareDescriptor() {
		c, err = t.dialH1(x, b)
	}
	if err != nil {
		return nil, false, dialError(err)
	}
	return c, false, nil
}

// writeChunk writes p as one chunk.
func (t *thread) writeChunk(to transport, p []byte) {
	if len(p) == 0 {
		return
	}
	t.text = h1.AppendChunkHeader(t.text[:0], len(p))
	to.Write(t.text)
	to.Write(p)
	to.Write(crlf)
}

var crlf = []byte("\r\n")

// retried counts a retry.
func (t *thread) retried(x *exchange, e *Error) { t.tally.retry(e.Reason) }

// dateCache is the Date field's value, made once a second.
type dateCache struct {
	second int64
	text   string
}

func (t *thread) dateText() string {
	now := t.loop.Time()
	if s := now.Unix(); s != t.date.second {
		t.date.second = s
		t.date.text = now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return t.date.text
}

// freelist keeps objects of one kind for reuse.
type freelist[T any, P interface {
	*T
	reset()
}] struct{ free []*T }

func (f *freelist[T, P]) get() *T {
	if n := len(f.free); n > 0 {
		o := f.free[n-1]
		f.free = f.free[:n-1]
		return o
	}
	return new(T)
}

func (f *freelist[T, P]) put(o *T) {
	P(o).reset()
	if len(f.free) < maxSpare {
		f.free = append(f.free, o)
	}
}

// keepHead is the largest head buffer that is kept for reuse.
const keepHead = 8 << 10

func (a *answerH1) reset() {
	if a.head = a.head[:0]; cap(a.head) > keepHead {
		*a = answerH1{} // what was parsed points into it
		return
	}
	if !a.whole {
		a.parsed.Reset()
	}
	a.method, a.chunked, a.sent, a.upgrade, a.heard, a.whole, a.interim = "", false, false, false, false, false, 0
}
