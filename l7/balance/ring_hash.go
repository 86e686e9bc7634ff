package balance

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// ringHash puts points of each candidate on a ring, as many as its weight says;
// a key belongs to the point behind it (Karger et al.). When a candidate goes,
// only its own keys move. Shares differ by some 8 %, more than maglev's.
type ringHash struct {
	set
	bound
	points []point  // in the order of the ring
	first  []uint32 // by the upper bits of a place: the first point not before
	shift  int
}

// point is where a candidate is on the ring: the upper half of its hash.
type point struct {
	at    uint32
	owner uint16
}

// A candidate of average weight has 160 points, in pools of over 6 553 fewer:
// a ring has about a million of 8 bytes.
const (
	usualPoints = 160
	mostPoints  = 1 << 20
)

func newRingHash(candidates []Candidate) Balancer {
	s := newSet(candidates)
	r := &ringHash{set: s}
	r.init(&s)
	each := math.Min(usualPoints, mostPoints/math.Max(float64(len(s.index)), 1)) / s.mean()
	var points []point
	for i, at := range s.index {
		h := Hash(candidates[at].Name)
		for range max(1, int(math.Round(each*float64(s.weight[i])))) {
			h = next(h)
			points = append(points, point{uint32(h >> 32), uint16(i)})
		}
	}
	r.sort(points, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(candidates[s.index[a.owner]].Name, candidates[s.index[b.owner]].Name))
	})
	return r
}

// sort puts the points into the order of the ring by way of first: they lie
// evenly, so there is one or none for each of its entries, and neither sorting
// nor looking up takes a search.
func (r *ringHash) sort(points []point, order func(a, b point) int) {
	r.shift = 32 - bits.Len(uint(len(points)))
	r.first = make([]uint32, 1<<(32-r.shift)+1)
	for _, p := range points {
		r.first[p.at>>r.shift+1]++
	}
	for i := 1; i < len(r.first); i++ {
		r.first[i] += r.first[i-1]
	}
	r.points = make([]point, len(points))
	filled := slices.Clone(r.first)
	for _, p := range points {
		r.points[filled[p.at>>r.shift]] = p
		filled[p.at>>r.shift]++
	}
	for i := range len(r.first) - 1 {
		if part := r.points[r.first[i]:r.first[i+1]]; len(part) > 1 {
			slices.SortFunc(part, order)
		}
	}
}

func (r *ringHash) Pick(a Ask) int {
	if len(r.index) == 0 {
		return -1
	}
	key := uint32(a.Key >> 32)
	at := int(r.first[key>>r.shift])
	for at < len(r.points) && r.points[at].at < key {
		at++
	}
	for range min(maxProbes, len(r.points)) {
		if at == len(r.points) {
			at = 0
		}
		i := int(r.points[at].owner)
		if c := r.index[i]; !a.tried(c) && !r.full(&r.set, i) {
			return c
		}
		at++
	}
	return r.anywhere(&r.set, &a)
}
