package balance

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Policy says when a backend is ejected for what it answered, and for how long.
type Policy struct {
	Interval time.Duration // back for so long, one ejection is forgiven
	Eject    time.Duration // the first ejection's length; the second is twice as long, and so on
	Most     float64       // share of the backends that may be ejected at once
}

// mostTimes bounds how long an ejection grows: to ten times the first.
const mostTimes = 10

// Outliers decides which backends of one pool are ejected. It is a state
// machine without a clock or a goroutine: Update is called when a backend begins
// to fail, and at the time that Next says. The zero value has no backends. Calls
// must not overlap.
type Outliers struct {
	policy Policy
	of     map[string]*outlier
	next   time.Time // zero: nothing to wait for
}

// outlier is a backend that is ejected, or was not long ago.
type outlier struct {
	ejected bool
	since   time.Time // of the last change
	until   time.Time // ejected: the end; back: when an ejection is forgiven
	times   int
}

// Ejection is a backend that gets no requests for now.
type Ejection struct {
	Name         string
	Since, Until time.Time
	Times        int // in a row, this one included
}

// Set says which backends there are and by which policy they are judged. Those
// that are ejected stay so as long as they were to; those that are gone are
// forgotten.
func (o *Outliers) Set(p Policy, names []string) {
	was := o.of
	o.policy, o.of = p, map[string]*outlier{}
	for _, name := range names {
		o.of[name] = cmp.Or(was[name], new(outlier))
	}
}

// Update ejects who fails and takes back whose time is over. No more than a
// share of all are ejected, but one of several always may be; who fails beyond
// that is asked about again after an interval. What it returns is sorted.
func (o *Outliers) Update(now time.Time, failing func(name string) bool) (ejected, back []string) {
	names := slices.Sorted(maps.Keys(o.of))
	out := 0
	for _, name := range names {
		if b := o.of[name]; b.ejected && now.Before(b.until) {
			out++
		} else if b.ejected {
			*b = outlier{since: now, until: now.Add(o.policy.Interval), times: b.times}
			back = append(back, name)
		} else {
			b.forgive(now, o.policy.Interval)
		}
	}
	waiting := false
	for _, name := range names {
		b := o.of[name]
		if b.ejected || slices.Contains(back, name) || !failing(name) {
			continue // one that is back begins anew
		}
		if out >= o.most() {
			waiting = true
			continue
		}
		b.eject(now, o.policy.Eject)
		ejected = append(ejected, name)
		out++
	}
	o.plan(now, waiting)
	return ejected, back
}

// most is how many may be ejected at once: never the only one.
func (o *Outliers) most() int {
	n := len(o.of)
	if n < 2 || o.policy.Most == 0 {
		return 0
	}
	return max(1, int(o.policy.Most*float64(n)+1e-9))
}

func (b *outlier) eject(now time.Time, first time.Duration) {
	b.times = min(b.times+1, mostTimes)
	b.ejected, b.since, b.until = true, now, now.Add(time.Duration(b.times)*first)
}

// forgive takes one ejection off for each interval without a new one.
func (b *outlier) forgive(now time.Time, interval time.Duration) {
	for b.times > 0 && !now.Before(b.until) {
		b.times--
		b.until = b.until.Add(interval)
	}
}

// plan finds out when Update has something to do again.
func (o *Outliers) plan(now time.Time, waiting bool) {
	o.next = time.Time{}
	if waiting {
		o.next = now.Add(o.policy.Interval)
	}
	for _, b := range o.of {
		if (b.ejected || b.times > 0) && (o.next.IsZero() || b.until.Before(o.next)) {
			o.next = b.until
		}
	}
}

// Next is when Update is to be called again; zero: when somebody begins to fail.
func (o *Outliers) Next() time.Time { return o.next }

// Ejected lists who gets no requests now, by name.
func (o *Outliers) Ejected() []Ejection {
	var out []Ejection
	for _, name := range slices.Sorted(maps.Keys(o.of)) {
		if b := o.of[name]; b.ejected {
			out = append(out, Ejection{name, b.since, b.until, b.times})
		}
	}
	return out
}
