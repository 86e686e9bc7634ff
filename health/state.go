package health

import "github.com/cirque-lb/lb"

// state is what a row of probe results says of a backend. The zero value is
// unknown, which counts as up.
type state struct {
	health lb.Health
	ok     bool // the last result
	streak int  // equal results in a row
}

// after is the state after one more result. A backend goes down after fall
// failures in a row and up after rise successes; from unknown the first
// success is enough, since it counts as up already.
func (s state) after(ok bool, rise, fall int) state {
	if ok != s.ok {
		s.ok, s.streak = ok, 0
	}
	s.streak++
	switch {
	case !ok && s.streak >= max(fall, 1):
		s.health = lb.Down
	case ok && (s.streak >= max(rise, 1) || s.health == lb.Unknown):
		s.health = lb.Up
	}
	return s
}
