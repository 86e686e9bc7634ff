package balance

// random chooses by weight and nothing else.
type random struct {
	set
	draw alias
}

func newRandom(candidates []Candidate) Balancer {
	s := newSet(candidates)
	return &random{s, newAlias(s.weight)}
}

func (r *random) Pick(a Ask) int {
	if len(r.index) == 0 {
		return -1
	}
	random := a.Random
	const draws = 4 // then any: a retry need not be fair
	for range draws {
		if at := r.index[r.draw.pick(random)]; !a.tried(at) {
			return at
		}
		random = next(random)
	}
	return r.untried(below(random, len(r.index)), &a)
}

// alias draws an index by weight in constant time (Walker's method, built as
// Vose does): each slot keeps a part for its own index and gives the rest to
// one other.
type alias struct {
	keep  []uint64 // of the slot's 2^64, how much is its own; unused when even
	other []int
	even  bool // all weights are equal
}

func newAlias(weight []uint64) alias {
	n := len(weight)
	a := alias{keep: make([]uint64, n), other: make([]int, n), even: true}
	var total uint64
	for _, w := range weight {
		total += w
		a.even = a.even && w == weight[0]
	}
	if a.even {
		return a
	}
	// A slot's size is total; a candidate fills weight*n of slots.
	left := make([]uint64, n)
	var small, large []int
	for i, w := range weight {
		left[i] = w * uint64(n)
		if left[i] < total {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.keep[s], a.other[s] = share(left[s], total), l
		if left[l] -= total - left[s]; left[l] < total {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(large, small...) { // exactly full
		a.keep[i], a.other[i] = ^uint64(0), i
	}
	return a
}

// share is part/whole of 2^64.
func share(part, whole uint64) uint64 {
	return uint64(float64(part) / float64(whole) * (1 << 63) * 2)
}

func (a *alias) pick(random uint64) int {
	i := below(random, len(a.keep))
	if a.even || next(random) < a.keep[i] {
		return i
	}
	return a.other[i]
}
