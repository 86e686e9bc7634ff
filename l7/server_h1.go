package l7

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/cirque-lb/lb/l7/h1"
	"github.com/cirque-lb/lb/l7/h2"
	"github.com/cirque-lb/lb/l7/loop"
)

// serverH1 is an HTTP/1 connection of a client; it is the downstream of its
// current request. Most connections are idle most of the time, so all that only
// a request needs is elsewhere: in its turn.
type serverH1 struct {
	conn   loop.Conn
	t      transport // &conn, or TLS over it
	thread *thread
	client *client

	turn  *turnH1 // the current request; nil while idle
	held  *[]byte // received behind the current request, in one of the loop's buffers; nil: nothing
	timer loop.Timer
	place int // in thread.clients

	served   uint32
	lingered uint32
	lingers  uint16 // how often lingering was prolonged

	state      serverState
	consuming  bool // Received is at work: what is behind a request waits for it
	pausedBody bool
	pausedHeld bool
	noPreface  bool // the first bytes are not HTTP/2's
	closeNext  bool // the connection ends with the current response
	refused    bool // the client is likely to be sending still
	failed     bool // nothing more can be said to the client
	aborted    bool // the response is not whole
	settled    bool // it was offered to another process, which refused
}

type serverState uint8

const (
	serverHead   serverState = iota // a head, or its rest, is to come
	serverBody                      // of the request
	serverAnswer                    // the request is whole, its response is not
	serverTunnel
	serverLinger // all is said; what the client still sends is dropped
	serverClosed
)

const (
	heldLimit   = 64 << 10 // pipelined bytes beyond which reading stops
	lingerLimit = 1 << 20  // dropped bytes beyond which lingering ends
)

// turnH1 is what a serverH1 needs for one request.
type turnH1 struct {
	head    []byte // what the strings of parsed point into
	parsed  h1.Request
	body    h1.Body
	request Request
	x       *exchange // from begin to done

	framing h1.Framing // of the response
	left    int64      // of a response with a length
	noBody  bool       // the response has none whatever its head says
	timed   bool       // the head has begun and has to end in time
	whole   bool       // the head is parsed
}

func (t *turnH1) reset() {
	if t.head = t.head[:0]; cap(t.head) > keepHead {
		*t = turnH1{} // what was parsed points into it
		return
	}
	if !t.whole {
		t.parsed.Reset() // else the next Parse does it
	}
	t.x, t.noBody, t.timed, t.whole = nil, false, false, false
	t.framing, t.left = h1.None, 0
}

// serveH1 makes an HTTP/1 connection of a plain socket.
func (t *thread) serveH1(fd int, client *client) {
	s := &serverH1{thread: t, client: client}
	if err := s.conn.Init(t.loop, fd, s); err != nil {
		client.gone()
		return
	}
	s.t = &s.conn
	t.clients.add(s)
	t.loop.Set(&s.timer, t.proxy.times.head, s)
}

// serveH1Over makes an HTTP/1 connection of TLS.
func (t *thread) serveH1Over(tr *tlsConn, client *client) {
	s := &serverH1{thread: t, client: client, t: tr, noPreface: client.security.ALPN != ""}
	tr.Use(s)
	t.clients.add(s)
	t.loop.Set(&s.timer, t.proxy.times.head, s)
}

// Received is the transport's.
func (s *serverH1) Received(p []byte) {
	if s.held != nil || s.consuming {
		s.hold(p)
		return
	}
	s.consume(p)
}

// consume takes what can be taken now, and holds the rest.
func (s *serverH1) consume(p []byte) {
	s.consuming = true
	for len(p) > 0 && s.state != serverAnswer && s.state != serverClosed {
		p = s.step(p)
	}
	s.consuming = false
	if len(p) > 0 && s.state != serverClosed {
		s.hold(p)
	}
}

// hold keeps pipelined bytes until their turn, and stops reading when they are
// too many.
func (s *serverH1) hold(p []byte) {
	if s.held == nil {
		s.held = new([]byte)
	}
	*s.held = s.thread.loop.Append(*s.held, p)
	if len(*s.held) >= heldLimit && !s.pausedHeld {
		s.pausedHeld = true
		s.t.Pause()
	}
}

// RunLater goes on with what was held, here or elsewhere.
func (s *serverH1) RunLater() {
	if s.state == serverClosed || s.thread.offer(s) || s.held == nil {
		return
	}
	held := *s.held
	s.held = nil
	s.consume(held)
	s.thread.loop.Recycle(held[:0])
	if s.pausedHeld && (s.held == nil || len(*s.held) < heldLimit) && s.state != serverClosed {
		s.pausedHeld = false
		s.resumeReading()
	}
}

func (s *serverH1) resumeReading() {
	if !s.pausedBody && !s.pausedHeld {
		s.t.Resume()
	}
}

// step takes one thing from the front of p and returns the rest.
func (s *serverH1) step(p []byte) []byte {
	switch s.state {
	case serverHead:
		return s.readHead(p)
	case serverBody:
		return s.readBody(p)
	case serverTunnel:
		s.turn.x.requestBody(p, false)
		return nil
	}
	s.linger(len(p))
	return nil
}

// readHead takes bytes of a request's head.
func (s *serverH1) readHead(p []byte) []byte {
	t := s.turn
	if t == nil {
		t = s.thread.turns.get()
		if cap(t.parsed.Fields) < roomForFields {
			t.parsed.Fields = make([]Field, 0, roomForFields)
		}
		s.turn = t
	}
	if !s.noPreface {
		var h2 bool
		if p, h2 = s.sniff(p); h2 {
			return nil
		}
	}
	for len(p) > 0 {
		had, take := len(t.head), min(len(p), firstHead+len(t.head))
		t.head = append(t.head, p[:take]...)
		n, err := t.parsed.Parse(t.head, &s.thread.proxy.view.Load().limits)
		if err != nil {
			s.refuse(requestError(err))
			return nil
		}
		if n > 0 {
			t.head, t.whole = t.head[:n], true
			s.begin()
			return p[n-had:]
		}
		p = p[take:]
	}
	s.waitHead()
	return nil
}

// waitHead: a head has begun and must end in time.
func (s *serverH1) waitHead() {
	if !s.turn.timed {
		s.turn.timed = true
		s.thread.loop.Stop(&s.timer)
		s.thread.loop.Set(&s.timer, s.thread.proxy.times.head, s)
	}
}

// sniff looks for HTTP/2's preface in the first bytes of a connection. It
// returns the bytes to go on with: none while it is undecided.
func (s *serverH1) sniff(p []byte) ([]byte, bool) {
	t := s.turn
	seen := append(t.head, p...)
	n := min(len(seen), len(h2.Preface))
	switch {
	case string(seen[:n]) != h2.Preface[:n]:
		s.noPreface = true
		t.head = t.head[:0]
		return seen, false
	case n < len(h2.Preface):
		t.head = seen
		s.waitHead()
		return nil, true
	}
	s.becomeH2(seen)
	return nil, true
}

// becomeH2 hands the connection over to HTTP/2.
func (s *serverH1) becomeH2(seen []byte) {
	s.thread.loop.Stop(&s.timer)
	s.thread.clients.remove(s)
	s.state = serverClosed
	t := s.turn
	s.turn = nil
	s.thread.serveH2(s.t, s.client, seen)
	s.thread.turns.put(t)
}

// request fills in what the exchange sees of the parsed head.
func (s *serverH1) request() *Request {
	t := s.turn
	t.request = Request{
		Method: t.parsed.Method, Scheme: s.client.scheme, Host: t.parsed.Host, Target: t.parsed.Target,
		Version: version(t.parsed.Minor), Header: t.parsed.Fields, Length: t.parsed.Length, Upgrade: t.parsed.Upgrade,
		parsed: t.head,
	}
	s.client.describe(&t.request)
	return &t.request
}

// begin starts the exchange of a whole head.
func (s *serverH1) begin() {
	t := s.turn
	s.served++
	s.closeNext = t.parsed.Close
	t.body.Reset(t.parsed.Framing, t.parsed.Length, &s.thread.proxy.view.Load().limits)
	s.state = serverBody
	if t.body.Done() {
		s.state = serverAnswer
	}
	t.x = s.thread.exchange(s)
	t.x.begin(s.request(), s.state == serverAnswer)
}

// refuse answers a request that is none, or whose body is none. The framing is
// in doubt: the connection ends.
func (s *serverH1) refuse(e *Error) {
	t := s.turn
	s.closeNext, s.refused = true, true
	s.state = serverAnswer
	if t.x == nil {
		t.x = s.thread.exchange(s)
		r := s.request()
		s.thread.keepRefusal(r, t.head, e)
		if s.served == 0 && isForeign(e) {
			t.x.giveUp(r, e)
			return
		}
		t.x.refuse(r, e)
		return
	}
	s.thread.keepRefusal(&t.request, t.head, e)
	t.x.refuse(nil, e)
}

// readBody takes bytes of a request's body.
func (s *serverH1) readBody(p []byte) []byte {
	t := s.turn
	data, n, err := t.body.Next(p)
	if err != nil {
		s.refuse(requestError(err))
		return nil
	}
	done := t.body.Done()
	if done {
		s.state = serverAnswer
	}
	switch x := t.x; {
	case done && len(t.body.Trailers()) > 0:
		if len(data) > 0 {
			x.requestBody(data, false)
		}
		if s.turn == t && t.x == x {
			x.requestTrailers(t.body.Trailers())
		}
	case done || len(data) > 0:
		x.requestBody(data, done)
	}
	return p[n:]
}

// done ends the exchange: the next request's turn, or the end.
func (s *serverH1) done() {
	if s.state == serverClosed { // it is somebody else's now
		s.forget()
		return
	}
	whole := s.state == serverAnswer
	tunnel := s.state == serverTunnel
	untilClose := s.turn.framing == h1.UntilClose
	s.thread.turns.put(s.turn)
	s.turn = nil
	if s.pausedBody {
		s.resumeBody()
	}
	switch {
	case s.failed:
		s.cutOff()
	case s.aborted && untilClose: // a FIN would make it look whole
		s.reset()
	case tunnel || s.aborted:
		s.finish()
	case s.closeNext && whole && s.held == nil && !s.refused:
		s.finish()
	case s.closeNext || !whole:
		s.startLinger()
	default:
		s.next()
	}
}

// next makes ready for the next request.
func (s *serverH1) next() {
	s.state = serverHead
	s.thread.loop.Set(&s.timer, s.keepAlive(), s)
	if s.thread.give != nil || s.held != nil && !s.consuming {
		s.thread.loop.Later(s)
	}
}

// keepAlive is how long the connection may be idle.
func (s *serverH1) keepAlive() time.Duration {
	switch {
	case s.thread.leaving:
		return s.thread.idleGrace()
	case s.thread.proxy.memory.level.Load() > memoryFine:
		return time.Second
	case s.thread.proxy.view.Load().drains(s.client.listener):
		return idleGrace/2 + time.Duration(rand.Int64N(int64(idleGrace/2)))
	}
	return s.thread.proxy.times.keepAlive
}

// startTunnel: the client's bytes are no more requests.
func (s *serverH1) startTunnel() {
	s.state = serverTunnel
	s.closeNext = true
	if s.thread.give != nil || s.held != nil && !s.consuming {
		s.thread.loop.Later(s)
	}
}

// Drained is the transport's.
func (s *serverH1) Drained() {
	if s.turn != nil && s.turn.x != nil {
		s.turn.x.clientDrained()
	}
}

// drain tells the client to go with its next response, and closes an idle
// connection soon. One that has not asked anything yet has the time that it has
// anyway: its client is about to.
func (s *serverH1) drain() {
	if s.thread.offer(s) {
		return
	}
	if s.turn == nil && s.state == serverHead && s.served > 0 {
		s.thread.loop.Stop(&s.timer)
		s.thread.loop.Set(&s.timer, s.keepAlive(), s)
	}
}

func (s *serverH1) from() netip.AddrPort { return s.client.peer }

func (s *serverH1) index() *int { return &s.place }

func (s *serverH1) whose() *client { return s.client }
