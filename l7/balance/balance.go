// Package balance chooses a backend. Its balancers are pure: what they choose
// depends on their candidates, on the loads and latencies these point to, and on
// what the caller asks with; they read no clock and hold no lock.
//
// A balancer is built for one set of candidates (those that are up, not
// drained and not backups, say) and never changed: when the set or a weight
// changes, build another, which takes time linear in the candidates (maglev: a
// few milliseconds, for its table).
//
// All methods may be called concurrently. What threads share is one atomic
// counter (round_robin; maglev and ring_hash when there is load) and the
// candidates' own load counters; random has nothing to share. Start at New.
//
// Beside them: Outliers decides which backends are ejected for what they
// answered, Ramp how much of its weight a backend gets that has just come up.
package balance

import (
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

// Candidate is a backend that may be chosen.
type Candidate struct {
	Name    string        // its identity; what maglev and ring_hash place it by
	Weight  int           // its share; 0 or less: never chosen
	Active  *atomic.Int64 // requests in progress there; round_robin and random do not read it
	Latency *Latency      // only ewma reads it
}

// Balancer chooses among the candidates it was built for.
type Balancer interface {
	// Pick returns the index of a candidate that is not in a.Tried, or -1 when
	// there is none.
	Pick(a Ask) int
}

// Ask is what a choice depends on besides the candidates.
type Ask struct {
	Random uint64        // fresh and uniform for each ask
	Key    uint64        // for maglev and ring_hash: equal for requests that belong together
	Now    time.Duration // for ewma: by the clock that latencies are observed by
	Tried  []int         // not to be picked
}

// tried reports whether candidate i must not be picked.
func (a *Ask) tried(i int) bool { return len(a.Tried) > 0 && slices.Contains(a.Tried, i) }

// builders are the balancers by their name in a configuration.
var builders = map[string]func([]Candidate) Balancer{
	"round_robin":   newRoundRobin,
	"least_request": newLeastRequest,
	"random":        newRandom,
	"ewma":          newEWMA,
	"maglev":        newMaglev,
	"ring_hash":     newRingHash,
}

// New builds the balancer of that name.
func New(name string, candidates []Candidate) (Balancer, error) {
	build, ok := builders[name]
	if !ok {
		return nil, fmt.Errorf("no balancer %q", name)
	}
	if len(candidates) > maxCandidates {
		return nil, fmt.Errorf("%d candidates; a balancer takes at most %d", len(candidates), maxCandidates)
	}
	return build(candidates), nil
}

// maxCandidates is what the tables' 16-bit entries can name.
const maxCandidates = 1 << 16

// Hashes reports whether the balancer of that name goes by Ask.Key.
func Hashes(name string) bool { return name == "maglev" || name == "ring_hash" }

// set is the candidates that can be chosen: those with a weight.
type set struct {
	index  []int // of each, among the caller's candidates
	weight []uint64
	active []*atomic.Int64
}

func newSet(candidates []Candidate) set {
	var s set
	for i, c := range candidates {
		if c.Weight > 0 {
			s.index = append(s.index, i)
			s.weight = append(s.weight, uint64(c.Weight))
			s.active = append(s.active, c.Active)
		}
	}
	return s
}

// untried returns the first candidate from start on, around, that was not
// tried: what to do when choosing by the rules keeps finding tried ones.
func (s *set) untried(start int, a *Ask) int {
	for i := range s.index {
		if at := s.index[(start+i)%len(s.index)]; !a.tried(at) {
			return at
		}
	}
	return -1
}

// below maps a random number to 0 <= i < n (Lemire; the bias is n / 2^64).
func below(random uint64, n int) int {
	hi, _ := bits.Mul64(random, uint64(n))
	return int(hi)
}

// next makes another random number of one (splitmix64).
func next(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
