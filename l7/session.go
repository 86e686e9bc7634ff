package l7

import (
	"context"
	"net/netip"
	"time"
)

// Session is what the filters of one request see. It belongs to the loop that
// the request came in on, and is reused after the Log phases.
type Session struct {
	Request  *Request  // as the client sent it
	Response *Response // once there is one
	Route    *Route
	Pool     *Pool
	Backend  *Backend // of the current attempt
	Attempt  int      // counts from 1
	Start    time.Time
	// Trailer is the response's, for the last call of a ResponseBody: what is left
	// of it then is what the client gets.
	Trailer Header

	locals []localEntry
	x      *exchange
	ctx    context.Context // while a Blocking phase runs
}

// Context ends when the client goes away. It is only for phases of a Blocking
// filter; to others nothing can happen meanwhile.
func (s *Session) Context() context.Context {
	if s.ctx == nil {
		return context.Background()
	}
	return s.ctx
}

// Client is who the request is from: who connected, or whom the proxies in front
// of us name, as far as they are trusted.
func (s *Session) Client() netip.Addr {
	addr := s.Request.Client.Addr().Unmap()
	if s.x == nil || !s.x.view.trusts(addr) {
		return addr
	}
	return s.x.view.farthest(addr, s.Request.Header)
}

// Trusted reports whether who connected is one of the trusted proxies, whose
// word counts.
func (s *Session) Trusted() bool { return s.x != nil && s.x.view.trusts(s.Request.Client.Addr()) }

// PoolNamed returns a pool of the request's configuration, nil if there is none
// of this name. A Request phase may make it the session's Pool.
func (s *Session) PoolNamed(name string) *Pool {
	if s.x == nil {
		return nil
	}
	return s.x.view.byName[name]
}

// Count counts an event of a filter in lbd_filter_events_total. Events are few
// and their names constant: each is a metric.
func (s *Session) Count(filter, event string) {
	if s.x != nil {
		s.x.thread.tally.event("lbd_filter_events_total", "filter", filter, "event", event)
	}
}

// PassBody takes the filter out of the way of this request's body: called in its
// Request phase, its RequestBody is not called, in its Response phase, its
// ResponseBody. If no filter is left, the body goes through as it is and keeps
// its length.
func (s *Session) PassBody() {
	if s.x != nil {
		s.x.passBody()
	}
}

type localEntry struct {
	key   any // the *Local
	value interface{ reset() }
}

// Local is one filter's own typed state in every request. The zero value is
// ready for use; keep it in a variable that all phases of the filter close over.
type Local[T any] struct{ _ byte } // not empty: its address is its identity

type localValue[T any] struct{ v T }

func (l *localValue[T]) reset() { var zero T; l.v = zero }

// Of returns the state of s, zero at first.
func (l *Local[T]) Of(s *Session) *T {
	for i := range s.locals {
		if s.locals[i].key == any(l) {
			return &s.locals[i].value.(*localValue[T]).v
		}
	}
	value := new(localValue[T])
	s.locals = append(s.locals, localEntry{l, value})
	return &value.v
}

// resetLocals zeroes what filters kept, so that the next request allocates
// nothing for it; a session that served many routes starts afresh.
func (s *Session) resetLocals() {
	const keep = 16
	if len(s.locals) > keep {
		s.locals = nil
	}
	for i := range s.locals {
		s.locals[i].value.reset()
	}
}
