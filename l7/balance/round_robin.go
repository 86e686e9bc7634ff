package balance

import "sync/atomic"

// roundRobin is smooth and weighted without a lock: a static stride scheduler.
//
// A shared counter walks over the candidates in rounds. Of every max rounds
// (max being the largest weight), a candidate of weight w is skipped in all but
// w, which are spread evenly: with weights 5, 1, 1 the turns are a, a b, a,
// a c, a. Equal weights skip nothing. In max rounds everybody gets exactly its
// weight.
type roundRobin struct {
	set
	max     uint64
	counter atomic.Uint64
}

func newRoundRobin(candidates []Candidate) Balancer {
	r := &roundRobin{set: newSet(candidates)}
	divisor := uint64(0)
	for _, w := range r.weight {
		divisor = gcd(divisor, w)
	}
	for i := range r.weight {
		r.weight[i] /= divisor
		r.max = max(r.max, r.weight[i])
	}
	return r
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// maxTurns bounds how often Pick takes the counter: 1 000 candidates of which
// one has a thousand times the weight of the others skip 500 times on average.
const maxTurns = 4096

func (r *roundRobin) Pick(a Ask) int {
	n := uint64(len(r.index))
	if n == 0 {
		return -1
	}
	for range maxTurns {
		turn := r.counter.Add(1) - 1
		round, i := turn/n, turn%n
		if !r.hasTurn(round, i) {
			continue
		}
		if at := r.index[i]; !a.tried(at) {
			return at
		} else if len(a.Tried) >= len(r.index) {
			break
		}
	}
	return r.untried(below(a.Random, int(n)), &a)
}

// hasTurn spreads w turns over max rounds; candidates of equal weight are
// offset against each other, so that they do not all come in the same round.
func (r *roundRobin) hasTurn(round, i uint64) bool {
	w := r.weight[i]
	if w == r.max {
		return true
	}
	offset := i * (r.max/uint64(len(r.index)) + 1) * w
	return (w*round+offset)%r.max < w
}
