package loop

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// clock is a loop without a clock: now is set by hand.
func clock() *Loop {
	l := &Loop{}
	l.wheel.init()
	return l
}

type alarm struct {
	timer Timer
	rang  []time.Duration
	l     *Loop
}

func (a *alarm) Expired(*Timer) { a.rang = append(a.rang, a.l.now) }

func (l *Loop) until(now time.Duration) {
	for l.now < now {
		l.now += min(Tick, now-l.now)
		l.wheel.advance(l.now)
	}
}

func TestTimersRingOnceAndNotEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := clock()
		l.until(rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(t, "start"))
		}).Draw(t, "now"))
		alarms := make([]*alarm, rapid.IntRange(1, 20).Draw(t, "alarms"))
		due := make([]time.Duration, len(alarms))
		set := func(i int) {
			d := time.Duration(rapid.Int64Range(0, int64(60*time.Second)).Draw(t, "after"))
			l.Set(&alarms[i].timer, d, alarms[i])
			due[i] = l.now + d
		}
		for i := range alarms {
			alarms[i] = &alarm{l: l}
			set(i)
		}
		for range rapid.IntRange(0, 5).Draw(t, "changes") {
			l.until(l.now + time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pass")))
			i := rapid.IntRange(0, len(alarms)-1).Draw(t, "which")
			if len(alarms[i].rang) > 0 {
				continue
			}
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				l.Stop(&alarms[i].timer)
				due[i] = -1
			case 1:
				l.Rest(&alarms[i].timer)
				due[i] = -1
			default:
				set(i)
			}
		}
		l.until(l.now + 2*time.Minute)
		for i, a := range alarms {
			switch {
			case due[i] < 0 && len(a.rang) > 0:
				t.Fatalf("a stopped timer rang at %v", a.rang)
			case due[i] < 0:
			case len(a.rang) != 1 || a.rang[0] < due[i] || a.rang[0] > due[i]+2*Tick:
				t.Fatalf("due at %v, rang at %v", due[i], a.rang)
			}
		}
		if next := l.wheel.next(l.now); next != maxSleep {
			t.Fatalf("an empty wheel wants to be looked at in %v", next)
		}
	})
}

func TestASleepEndsWhenATimerIsDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := clock()
		l.until(time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(t, "now")))
		after := time.Duration(rapid.Int64Range(0, int64(16*time.Second)).Draw(t, "after"))
		a := &alarm{l: l}
		l.Set(&a.timer, after, a)
		if got := l.wheel.next(l.now); got > after+Tick || got < after-Tick {
			t.Fatalf("due in %v, sleeps %v", after, got)
		}
	})
}

func TestALongSleepLosesNoTimer(t *testing.T) {
	l := clock()
	var alarms []*alarm
	for i := range 200 {
		a := &alarm{l: l}
		alarms = append(alarms, a)
		l.Set(&a.timer, time.Duration(i)*250*time.Millisecond, a)
	}
	l.now = time.Hour
	l.wheel.advance(l.now)
	if i := slices.IndexFunc(alarms, func(a *alarm) bool { return len(a.rang) != 1 }); i >= 0 {
		t.Errorf("timer %d rang %d times", i, len(alarms[i].rang))
	}
}

func TestATimerThatRestsIsSetWhereItLies(t *testing.T) {
	l := clock()
	a := &alarm{l: l}
	l.Set(&a.timer, time.Second, a)
	l.Rest(&a.timer)
	if a.timer.Armed() {
		t.Error("a resting timer is armed")
	}
	l.Set(&a.timer, 2*time.Second, a) // looked at after one
	l.until(1900 * time.Millisecond)
	if len(a.rang) != 0 {
		t.Errorf("set to two seconds it rang at %v", a.rang)
	}
	l.Rest(&a.timer)
	l.Set(&a.timer, 10*time.Millisecond, a) // sooner than it is looked at
	l.until(3 * time.Second)
	if len(a.rang) != 1 || a.rang[0] > 1950*time.Millisecond {
		t.Errorf("set to 1.91 s it rang at %v", a.rang)
	}
}

func BenchmarkTimerSetAndRest(b *testing.B) {
	l := clock()
	a := &alarm{l: l}
	for b.Loop() {
		l.now++
		l.Set(&a.timer, time.Minute, a)
		l.Rest(&a.timer)
	}
}

// resetter sets its timer again whenever it rings.
type resetter struct {
	timer Timer
	l     *Loop
	n     int
}

func (r *resetter) Expired(t *Timer) { r.n++; r.l.Set(t, 0, r) }

func TestATimerMaySetItself(t *testing.T) {
	l := clock()
	r := &resetter{l: l}
	l.Set(&r.timer, 0, r)
	l.until(time.Second)
	if r.n < 50 || r.n > 65 {
		t.Errorf("rang %d times in %d ticks", r.n, time.Second/Tick)
	}
}

func BenchmarkTimerSetLater(b *testing.B) {
	l := clock()
	a := &alarm{l: l}
	for b.Loop() {
		l.now++
		l.Set(&a.timer, time.Minute, a)
	}
}

func BenchmarkTimerSetAndStop(b *testing.B) {
	l := clock()
	a := &alarm{l: l}
	for b.Loop() {
		l.Set(&a.timer, time.Minute, a)
		l.Stop(&a.timer)
	}
}
