package l4

import (
	"hash/fnv"
	"slices"

	"github.com/cirque-lb/lb"
)

// A share is a backend's part of a service's ring.
type share struct {
	name   string // who it is, on every node the same
	weight int    // its part; 0: none
	takes  bool   // false: what would be its part goes to the others
}

// ring returns for each of lb.Rows places the index in shares of who takes its
// new flows, -1 where nobody does: Google's Maglev (NSDI 2016, 3.4), with
// weights. A backend that takes nothing for now moves nothing but its own part:
// the places are divided among all, then those of the absent given away.
// Shares in any order give the same ring.
func ring(shares []share) []int16 {
	places := make([]int16, lb.Rows)
	for i := range places {
		places[i] = -1
	}
	turns := turnsOf(shares)
	if len(turns) == 0 {
		return places
	}
	divide(places, turns)
	give(places, shares, turns)
	return places
}

// A turn is a backend as it claims places: in the order first, first+step, ...
type turn struct {
	share       int16
	name        uint64 // hash of the name
	first, step uint32
	weight, due int
}

func turnsOf(shares []share) []turn {
	var turns []turn
	for i, s := range shares {
		if s.weight <= 0 {
			continue
		}
		h := fnv.New64a()
		h.Write([]byte(s.name))
		name := mix(h.Sum64())
		turns = append(turns, turn{
			share: int16(i), name: name, weight: s.weight,
			first: uint32(name>>32) % lb.Rows, step: uint32(mix(name))%(lb.Rows-1) + 1,
		})
	}
	slices.SortFunc(turns, func(a, b turn) int { return compareNames(shares[a.share].name, shares[b.share].name) })
	return turns
}

func compareNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// divide lets each claim its next free place, the heaviest in every round, the
// others in proportion.
func divide(places []int16, turns []turn) {
	heaviest := 0
	for _, t := range turns {
		heaviest = max(heaviest, t.weight)
	}
	for left := len(places); ; {
		for i := range turns {
			t := &turns[i]
			if t.due += t.weight; t.due < heaviest {
				continue
			}
			t.due -= heaviest
			for places[t.first] >= 0 {
				t.next()
			}
			places[t.first] = t.share
			if left--; left == 0 {
				return
			}
		}
	}
}

func (t *turn) next() {
	if t.first += t.step; t.first >= lb.Rows {
		t.first -= lb.Rows
	}
}

// give hands the places of those who take nothing to the others, each place by
// itself by rendezvous, so that one more absence moves only its own.
func give(places []int16, shares []share, turns []turn) {
	var members []lb.Member
	var keys []uint64
	var index []int16
	for _, t := range turns {
		if shares[t.share].takes {
			members, keys, index = append(members, lb.Member{Weight: t.weight}), append(keys, t.name), append(index, t.share)
		}
	}
	if len(members) == len(turns) {
		return
	}
	log := logs()
	for place, s := range places {
		if shares[s].takes {
			continue
		}
		places[place] = -1
		if w := winner(members, keys, mix(uint64(place)), log); w >= 0 {
			places[place] = index[w]
		}
	}
}
