package balance

import (
	"math"
	"sync/atomic"
)

// Hash makes the key of a text: the same in every process and on every node, so
// that they agree on where a key goes (FNV-1a, mixed once more: its own high
// bits say little about short texts). It is not keyed: who knows the backends
// can find keys of one of them; the bound on its load is what stops that.
func Hash[T string | []byte](text T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return next(h)
}

// bound is how much more than its share a candidate may have in progress
// (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads").
// What is over goes to the candidate that the key finds next.
type bound struct {
	sum uint64 // of the weights

	// What is in progress at all of them is counted anew when every sixteenth
	// of them has been asked for: on average 16 counters are read for an ask,
	// however many there are, and no counter is shared by all requests.
	every uint64
	asks  atomic.Uint64
	all   atomic.Int64
}

// A quarter over its share at most. With few requests about, a share is next to
// nothing and every second request of a key would go astray: up to 16 requests
// are no load worth leaving a key's backend for.
const (
	boundOver  = 5
	boundOf    = 4
	boundFloor = 16
)

func (b *bound) init(s *set) {
	b.every = max(1, uint64(len(s.index))/16)
	for _, w := range s.weight {
		b.sum += w
	}
}

// full reports whether the i-th of s may get no more: it has ceil(5/4 of its
// share of what is in progress, this request included).
func (b *bound) full(s *set, i int) bool {
	active := s.active[i].Load()
	if active < boundFloor {
		return false
	}
	if (b.asks.Add(1)-1)%b.every == 0 {
		b.count(s)
	}
	all := uint64(max(b.all.Load(), active)) + 1
	whole := boundOf * b.sum
	return uint64(active) >= (boundOver*all*s.weight[i]+whole-1)/whole
}

func (b *bound) count(s *set) {
	all := int64(0)
	for _, active := range s.active {
		all += active.Load()
	}
	b.all.Store(all)
}

// anywhere is for a key that did not find room soon: the first candidate from
// the key's own on that has room, else the first that was not tried.
func (b *bound) anywhere(s *set, a *Ask) int {
	start := below(next(a.Key), len(s.index))
	for k := range s.index {
		i := (start + k) % len(s.index)
		if at := s.index[i]; !a.tried(at) && !b.full(s, i) {
			return at
		}
	}
	return s.untried(start, a)
}

// maxProbes bounds how far a key looks for room before it takes what it finds:
// with a quarter of all room free, 64 places in a row are full once in 10^8.
const maxProbes = 64

// mean is the candidates' average weight.
func (s *set) mean() float64 {
	sum := 0.0
	for _, w := range s.weight {
		sum += float64(w)
	}
	return math.Max(sum, 1) / math.Max(float64(len(s.weight)), 1)
}
