package balance

import (
	"cmp"
	"slices"
)

// maglev finds a key's candidate in one look at a table that the candidates
// share out among themselves, each taking its next free place by an order of its
// own, as often as its weight says (Eisenbud et al., "Maglev", section 3.4).
// Shares are exact to one place. When one of 1 000 candidates goes, its 0.1 % of
// the keys move and about 0.6 % that need not have.
type maglev struct {
	set
	bound
	table []uint16
}

// tableSize is a prime that is much larger than most pools; 131 KiB a pool.
const tableSize = 65537

func newMaglev(candidates []Candidate) Balancer {
	m := &maglev{set: newSet(candidates)}
	m.init(&m.set)
	if len(m.index) > 0 {
		m.fill(candidates)
	}
	return m
}

// turn is one candidate's way through the table.
type turn struct {
	i        int
	at, skip uint32
	weight   uint64
	due      uint64
}

func (m *maglev) fill(candidates []Candidate) {
	turns := make([]turn, len(m.index))
	most := uint64(0)
	for i, at := range m.index {
		h := Hash(candidates[at].Name)
		turns[i] = turn{i: i, at: uint32(h % tableSize), skip: uint32(next(h)%(tableSize-1)) + 1, weight: m.weight[i]}
		most = max(most, m.weight[i])
	}
	// Who goes first does not depend on the order that the candidates came in.
	slices.SortFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(candidates[m.index[a.i]].Name, candidates[m.index[b.i]].Name))
	})
	m.table = make([]uint16, tableSize)
	taken := make([]bool, tableSize)
	for filled, round := 0, uint64(1); ; round++ {
		for k := range turns {
			t := &turns[k]
			if round*t.weight < t.due { // the heaviest has a turn in each round
				continue
			}
			t.due += most
			for taken[t.at] {
				t.at = (t.at + t.skip) % tableSize
			}
			taken[t.at], m.table[t.at] = true, uint16(t.i)
			if filled++; filled == tableSize {
				return
			}
		}
	}
}

func (m *maglev) Pick(a Ask) int {
	if len(m.index) == 0 {
		return -1
	}
	// A key that may not have the candidate it finds draws another, always the
	// same: what one sheds spreads over all others.
	for probe, h := 0, a.Key; probe < maxProbes; probe, h = probe+1, next(h) {
		i := int(m.table[h%tableSize])
		if at := m.index[i]; !a.tried(at) && !m.full(&m.set, i) {
			return at
		}
	}
	return m.anywhere(&m.set, &a)
}
