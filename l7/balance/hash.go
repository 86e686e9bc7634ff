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
	total *atomic.Int64 // requests in progress at all of them; nil: no bound
	sum   uint64        // of all their weights
	floor int64         // up to so many are always fine
}

// A quarter over its share at most. With few requests about, a share is next to
// nothing and every second request of a key would go astray: up to 16 requests
// are no load worth leaving a key's backend for.
const (
	boundOver  = 5
	boundOf    = 4
	boundFloor = 16
)

func newBound(s *set, total *atomic.Int64) bound {
	b := bound{total: total, floor: boundFloor}
	for _, w := range s.weight {
		b.sum += w
	}
	return b
}

// full reports whether the i-th of s may get no more: it has ceil(5/4 of its
// share of what is in progress, this request included).
func (b *bound) full(s *set, i int) bool {
	if b.total == nil {
		return false
	}
	active := s.active[i].Load()
	if active < b.floor {
		return false
	}
	all := uint64(max(b.total.Load(), 0)) + 1
	whole := boundOf * b.sum
	return uint64(active) >= (boundOver*all*s.weight[i]+whole-1)/whole
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
