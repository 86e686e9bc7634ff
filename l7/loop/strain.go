package loop

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// ErrStrain ends a connection whose peer takes nothing while the kernel is short
// of memory for TCP.
var ErrStrain = errors.New("peer does not read, and the kernel is short of memory")

// All sockets of a host share the kernel's memory for TCP, and when it is used up
// segments are dropped, of whoever they are. A peer that asks for much and reads
// nothing costs up to 3 MiB of it, most of that in the socket of a backend on the
// same host, and itself a packet. So when a loop has many that are blocked, and
// the kernel has little left, those that take nothing have to go sooner than
// after stallTimeout, and what makes more of them, connections to backends, is
// begun slowly meanwhile.
const (
	strainFrom    = 32 // connections that are blocked: fewer do no harm
	strainLook    = 100 * time.Millisecond
	strainTime    = time.Second           // that a peer may take nothing, then
	strainEach    = 16                    // end at a look, at least, or a quarter of all that are blocked
	strainBetween = 10 * time.Millisecond // two connections to backends, then
	strainAsk     = time.Millisecond      // between two looks at the kernel
)

// strain is what a loop knows of it.
type strain struct {
	loop    *Loop
	timer   Timer
	blocked []*Conn     // accepted, and their peers do not keep up
	short   func() bool // whether the kernel has little left
	is      bool        // it had, when it was asked
	asked   time.Duration
	dialed  time.Duration // when a connection to a backend was begun, then
	ended   atomic.Uint64 // connections, so far
}

// add notes that c is blocked.
func (s *strain) add(c *Conn) {
	if c.made != accepted {
		return
	}
	c.stall.place = len(s.blocked)
	s.blocked = append(s.blocked, c)
	if len(s.blocked) == strainFrom {
		s.loop.Set(&s.timer, strainLook, s)
	}
}

// remove takes that back.
func (s *strain) remove(c *Conn) {
	if c.made != accepted {
		return
	}
	last := len(s.blocked) - 1
	moved := s.blocked[last]
	s.blocked[c.stall.place] = moved
	moved.stall.place = c.stall.place
	s.blocked[last] = nil
	s.blocked = s.blocked[:last]
}

// on reports whether it is so that something has to be done.
func (s *strain) on() bool {
	if len(s.blocked) < strainFrom {
		return false
	}
	if now := s.loop.now; now-s.asked >= strainAsk {
		s.asked, s.is = now, s.short()
	}
	return s.is
}

// mayDial reports whether a connection to a backend may begin now.
func (s *strain) mayDial() bool {
	if !s.on() {
		return true
	}
	if s.loop.now-s.dialed < strainBetween {
		return false
	}
	s.dialed = s.loop.now
	return true
}

// Expired looks at who is blocked.
func (s *strain) Expired(*Timer) {
	if len(s.blocked) < strainFrom {
		return // add sets it again
	}
	s.loop.Set(&s.timer, strainLook, s)
	if s.on() {
		s.relieve()
	}
}

// relieve ends some of those that take nothing, the longest first.
func (s *strain) relieve() {
	now := s.loop.now
	var idle []*Conn
	for _, c := range s.blocked {
		age := now - c.stall.since
		if age < strainTime {
			continue
		}
		acked := c.acked()
		if int64(acked-c.stall.mark) >= s.loop.Least(age) {
			c.stall.mark, c.stall.since = acked, now
			continue
		}
		idle = append(idle, c)
	}
	slices.SortFunc(idle, func(a, b *Conn) int { return cmp.Compare(a.stall.since, b.stall.since) })
	for _, c := range idle[:min(len(idle), max(strainEach, len(s.blocked)/4))] {
		if c.stall != nil { // what the end of another led to may have ended it
			s.ended.Add(1)
			c.failWrite(ErrStrain)
		}
	}
}
