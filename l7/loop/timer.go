package loop

import (
	"math/bits"
	"time"
)

const (
	// Tick is the resolution of timers: they run up to one tick late.
	Tick  = 16 * time.Millisecond
	slots = 1024 // a power of two; a revolution takes 16 s
)

// Timer calls its owner once. Embed it: it allocates nothing, and setting it
// later than it was costs a store.
type Timer struct {
	next, prev *Timer // in the ring of a slot; nil: in none
	owner      Expirer
	when       time.Duration
	look       uint32 // the tick at which it is looked at next, as far as that fits
	armed      bool
}

// Expirer owns timers; t tells which one ran out.
type Expirer interface{ Expired(t *Timer) }

// wheel is a hashed timing wheel: a timer lies in the slot of the tick at which
// it is looked at next, which is never after the tick when it is due.
type wheel struct {
	heads    [slots]Timer
	occupied [slots / 64]uint64
	done     int64 // the last tick that was looked at
}

func (w *wheel) init() {
	for i := range w.heads {
		w.heads[i].next, w.heads[i].prev = &w.heads[i], &w.heads[i]
	}
}

// Set makes t run out after d.
func (l *Loop) Set(t *Timer, d time.Duration, owner Expirer) {
	t.when, t.owner, t.armed = l.now+d, owner, true
	if t.next != nil {
		if l.wheel.ahead(t.tick()) >= int64(t.look-uint32(l.wheel.done)) {
			return // looked at too early, then put where it belongs
		}
		l.wheel.unlink(t)
	}
	l.wheel.link(t)
}

// Stop makes t not run out.
func (l *Loop) Stop(t *Timer) {
	if t.next != nil {
		l.wheel.unlink(t)
	}
	t.armed, t.owner = false, nil
}

// Rest is Stop for a timer that is going to be set again soon: it stays where
// it lies until it is looked at, so Set costs a store. Its memory must stay what
// it is until Stop.
func (l *Loop) Rest(t *Timer) { t.armed = false }

// Armed reports whether the timer is set.
func (t *Timer) Armed() bool { return t.armed }

// tick is the first at which t is due.
func (t *Timer) tick() int64 { return int64((t.when + Tick - 1) / Tick) }

// ahead is in how many ticks something due at a tick is looked at: a revolution
// at most.
func (w *wheel) ahead(tick int64) int64 { return min(max(tick-w.done, 1), slots-1) }

// link puts t where it is looked at when it is due, or a revolution from now.
func (w *wheel) link(t *Timer) {
	tick := w.done + w.ahead(t.tick())
	t.look = uint32(tick)
	slot := tick % slots
	head := &w.heads[slot]
	t.prev, t.next = head.prev, head
	t.prev.next, head.prev = t, t
	w.occupied[slot/64] |= 1 << (slot % 64)
}

func (w *wheel) unlink(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev = nil, nil
	slot := t.look % slots
	if head := &w.heads[slot]; head.next == head {
		w.occupied[slot/64] &^= 1 << (slot % 64)
	}
}

// advance runs what is due at now.
func (w *wheel) advance(now time.Duration) {
	tick := int64(now / Tick)
	if tick-w.done > slots { // long asleep: once around is enough
		w.done = tick - slots
	}
	for w.done < tick {
		w.done++
		if slot := w.done % slots; w.occupied[slot/64]&(1<<(slot%64)) != 0 {
			w.expire(&w.heads[slot], now)
		}
	}
}

// expire looks at the timers of one slot. What is set meanwhile goes to others.
func (w *wheel) expire(head *Timer, now time.Duration) {
	for head.next != head {
		t := head.next
		w.unlink(t)
		switch {
		case !t.armed: // it rests
		case t.when > now:
			w.link(t)
		default:
			t.armed = false
			t.owner.Expired(t)
		}
	}
}

// next returns how long until a timer may be due.
func (w *wheel) next(now time.Duration) time.Duration {
	from := w.done + 1
	for ahead := int64(0); ahead < slots; {
		slot := (from + ahead) % slots
		word := w.occupied[slot/64] >> (slot % 64)
		if word != 0 {
			due := time.Duration(from+ahead+int64(bits.TrailingZeros64(word))) * Tick
			return max(0, due-now)
		}
		ahead += 64 - slot%64
	}
	return maxSleep
}
