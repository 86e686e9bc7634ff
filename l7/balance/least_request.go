package balance

import "slices"

// leastRequest takes the less loaded of two random candidates (Mitzenmacher's
// power of two choices): nearly as even as looking at all of them, and two
// threads that look at the same moment do not flood the same backend.
//
// Candidates are drawn by weight and compared by requests per weight, so that
// idle backends share by weight, too.
type leastRequest struct {
	set
	draw alias
}

// exploreBits: one pick in 64 takes the first draw whatever its load, so that a
// slow backend that always has more in progress than the others still gets a
// request now and then, and can show that it is well again.
const exploreBits = 6

func newLeastRequest(candidates []Candidate) Balancer {
	s := newSet(candidates)
	return &leastRequest{s, newAlias(s.weight)}
}

func (l *leastRequest) Pick(random uint64, tried []int) int {
	if len(l.index) == 0 {
		return -1
	}
	a := l.draw.pick(random)
	if len(l.index) == 1 && len(tried) == 0 {
		return l.index[a]
	}
	random = next(random)
	b := l.draw.pick(random)
	for again := 0; a == b && again < 3; again++ { // the heaviest may come up again and again
		random = next(random)
		b = l.draw.pick(random)
	}
	if explore := random<<(64-exploreBits) == 0; !explore && l.busier(a, b) {
		a, b = b, a
	}
	for _, i := range [...]int{a, b} {
		if at := l.index[i]; len(tried) == 0 || !slices.Contains(tried, at) {
			return at
		}
	}
	return l.leastUntried(below(next(random), len(l.index)), tried)
}

// busier reports whether a has more requests per weight than b.
func (l *leastRequest) busier(a, b int) bool {
	return uint64(l.active[a].Load())*l.weight[b] > uint64(l.active[b].Load())*l.weight[a]
}

// leastUntried looks at all of a retry's candidates: retries are rare.
func (l *leastRequest) leastUntried(start int, tried []int) int {
	best := -1
	for k := range l.index {
		i := (start + k) % len(l.index)
		if slices.Contains(tried, l.index[i]) {
			continue
		}
		if best < 0 || l.busier(best, i) {
			best = i
		}
	}
	if best < 0 {
		return -1
	}
	return l.index[best]
}
