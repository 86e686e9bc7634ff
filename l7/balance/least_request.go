package balance

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

func (l *leastRequest) Pick(a Ask) int { return l.draw.ofTwo(&l.set, &a, l.busier) }

// busier reports whether a has more requests per weight than b.
func (l *leastRequest) busier(a, b int) bool {
	return uint64(l.active[a].Load())*l.weight[b] > uint64(l.active[b].Load())*l.weight[a]
}

// ofTwo draws two candidates and takes the better one, but for a pick in 64.
func (d *alias) ofTwo(s *set, a *Ask, worse func(i, j int) bool) int {
	if len(s.index) == 0 {
		return -1
	}
	i := d.pick(a.Random)
	if len(s.index) == 1 && len(a.Tried) == 0 {
		return s.index[i]
	}
	random := next(a.Random)
	j := d.pick(random)
	for again := 0; i == j && again < 3; again++ { // the heaviest may come up again and again
		random = next(random)
		j = d.pick(random)
	}
	if explore := random<<(64-exploreBits) == 0; !explore && worse(i, j) {
		i, j = j, i
	}
	for _, k := range [...]int{i, j} {
		if at := s.index[k]; !a.tried(at) {
			return at
		}
	}
	return s.bestUntried(below(next(random), len(s.index)), a, worse)
}

// bestUntried looks at all of a retry's candidates: retries are rare.
func (s *set) bestUntried(start int, a *Ask, worse func(i, j int) bool) int {
	best := -1
	for k := range s.index {
		i := (start + k) % len(s.index)
		if a.tried(s.index[i]) {
			continue
		}
		if best < 0 || worse(best, i) {
			best = i
		}
	}
	if best < 0 {
		return -1
	}
	return s.index[best]
}
