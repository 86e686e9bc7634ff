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
// same host, and itself a packet. So when a loop has many that are stuck, and the
// kernel has little left, they have to go sooner than after stallTimeout, and what
// makes more of them, connections to backends, is begun slowly meanwhile.
const (
	strainFrom  = 32 // connections that are stuck: fewer do no harm
	strainLook  = 100 * time.Millisecond
	strainStuck = 100 * time.Millisecond // that a peer takes nothing: it may be stuck
	strainTime  = time.Second            // it has to go
	strainSoon  = 250 * time.Millisecond // or now, when segments are about to be dropped
	strainEach  = 16                     // may end at a look, if a quarter or half of all that are blocked is less
	strainAsk   = time.Millisecond       // between two looks at the kernel
	strainLong  = 5 * time.Second        // that the kernel had enough again, until that is believed
)

// strainBetween is the time between two connections to backends that begin, by
// the kernel's want.
var strainBetween = [...]time.Duration{wantCare: 2 * time.Millisecond, wantLittle: 10 * time.Millisecond, wantMuch: 100 * time.Millisecond}

// want is how short of memory the kernel is.
type want uint8

const (
	wantNothing want = iota
	wantCare         // it had little a moment ago; what is under way will take some
	wantLittle       // half of what it regards as little is in use
	wantMuch         // it begins to be sparing
)

// strain is what a loop knows of it.
type strain struct {
	loop    *Loop
	timer   Timer
	blocked []*Conn // accepted, and their peers do not keep up
	stuck   int     // of those, at the last look
	kernel  func() want
	wants   want // when it was asked
	asked   time.Duration
	wanted  time.Duration // when it last was so that something had to be done
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

// level is how much has to be done: while the kernel wants little, only if many
// are known to be stuck.
func (s *strain) level() want {
	if len(s.blocked) < strainFrom {
		return wantNothing
	}
	now := s.loop.now
	if now-s.asked >= strainAsk {
		s.asked, s.wants = now, s.kernel()
	}
	switch {
	case s.wants == wantMuch, s.wants == wantLittle && s.stuck >= strainFrom:
		s.wanted = now
		return s.wants
	case s.wanted > 0 && now-s.wanted < strainLong:
		return wantCare
	}
	return wantNothing
}

// mayDial reports whether a connection to a backend may begin now.
func (s *strain) mayDial() bool {
	level := s.level()
	if level == wantNothing {
		return true
	}
	if s.loop.now-s.dialed < strainBetween[level] {
		return false
	}
	s.dialed = s.loop.now
	return true
}

// Expired looks at who is blocked.
func (s *strain) Expired(*Timer) {
	if len(s.blocked) < strainFrom {
		s.stuck = 0
		return // add sets it again
	}
	s.loop.Set(&s.timer, strainLook, s)
	switch s.kernel() {
	case wantLittle:
		s.relieve(strainTime, len(s.blocked)/4)
	case wantMuch:
		s.relieve(strainSoon, len(s.blocked)/2)
	}
}

// relieve ends some of those that took nothing for so long, the longest first.
func (s *strain) relieve(after time.Duration, most int) {
	now := s.loop.now
	s.stuck = 0
	var idle []*Conn
	for _, c := range s.blocked {
		acked, age := c.acked(), now-c.stall.since
		switch {
		case int64(acked-c.stall.mark) >= s.loop.Least(age):
			c.stall.mark, c.stall.since = acked, now
			continue
		case age >= after:
			idle = append(idle, c)
		}
		if age >= strainStuck {
			s.stuck++
		}
	}
	slices.SortFunc(idle, func(a, b *Conn) int { return cmp.Compare(a.stall.since, b.stall.since) })
	for _, c := range idle[:min(len(idle), max(strainEach, most))] {
		if c.stall != nil { // what the end of another led to may have ended it
			s.ended.Add(1)
			c.failWrite(ErrStrain)
		}
	}
}
