package l7

import (
	"io"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// How a serverH1 ends: at once, after its last bytes, or by lingering.

// startLinger says FIN and reads on for a while: closing a socket with unread
// bytes would reset it and take our response from the client's hands.
func (s *serverH1) startLinger() {
	s.state = serverLinger
	s.release()
	s.pausedHeld = false
	s.t.Resume()
	s.t.CloseWrite()
	s.thread.loop.Stop(&s.timer)
	s.thread.loop.Set(&s.timer, s.thread.proxy.times.linger, s)
}

// lingerOn reports whether to linger on: a close while our last bytes are under
// way, and bytes of the client unread, would reset them away.
func (t *thread) lingerOn(tr transport, times *uint16) bool {
	*times++
	return tr.Unacked() > 0 && time.Duration(*times)*t.proxy.times.linger <= lingerLongest
}

func (s *serverH1) linger(n int) {
	if s.lingered += uint32(n); s.lingered > lingerLimit {
		s.cutOff()
	}
}

func (s *serverH1) release() {
	if s.held != nil {
		s.thread.loop.Recycle((*s.held)[:0])
		s.held = nil
	}
}

// finish closes after all is written.
func (s *serverH1) finish() {
	if s.leave() {
		s.t.Finish()
	}
}

// cutOff closes now.
func (s *serverH1) cutOff() {
	if s.leave() {
		s.t.Close()
	}
}

// reset closes so that the client sees an error.
func (s *serverH1) reset() {
	if s.t == &s.conn {
		s.conn.ResetOnClose()
	}
	s.cutOff()
}

// leave takes the connection out of the books, once.
func (s *serverH1) leave() bool {
	if s.state == serverClosed {
		return false
	}
	s.state = serverClosed
	s.forget()
	s.client.gone()
	return true
}

// Ended is the transport's.
func (s *serverH1) Ended(err error) {
	switch {
	case s.turn == nil || s.turn.x == nil:
		s.cutOff()
	case s.state == serverTunnel && err == io.EOF:
		s.turn.x.requestBody(nil, true)
	default:
		s.failed = true
		s.turn.x.clientGone(err)
	}
}

// Expired: too slow a head, too long a silence, or the end of lingering. While
// an exchange runs, its own timer counts.
func (s *serverH1) Expired(*loop.Timer) {
	switch {
	case s.turn != nil && s.turn.x != nil:
	case s.state == serverHead && s.turn != nil && len(s.turn.head) > 0:
		s.refuse(&Error{Status: 408, Source: FromClient, Reason: lb.ClientTimeout})
	case s.state == serverLinger && s.thread.lingerOn(s.t, &s.lingers):
		s.thread.loop.Set(&s.timer, s.thread.proxy.times.linger, s)
	case s.state == serverHead && s.t.Unread(): // a request that came in time, to a loop that is late
		s.thread.loop.Set(&s.timer, loop.Tick, s)
	default:
		s.cutOff()
	}
}

// cut ends the connection now.
func (s *serverH1) cut() {
	if t := s.turn; t != nil && t.x != nil {
		s.failed = true
		t.x.cutDown()
		return
	}
	s.cutOff()
}
