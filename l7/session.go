package l7

import (
	"context"
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
