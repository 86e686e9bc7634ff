package worker

import (
	"cmp"
	"slices"
)

// place is what assign needs to know of one worker of the current crew.
type place struct {
	ready bool   // configured and answering
	stuck []bool // by thread: its loop does not turn; nil: all turn
}

func (p place) serves(thread int) bool {
	return p.ready && (thread >= len(p.stuck) || !p.stuck[thread])
}

// duty says who accepts on every slot and which slots take new connections.
type duty struct {
	grants [][]grant // by worker of the crew
	live   []bool    // by slot
}

// assign gives every slot somebody who accepts on it. Slot i is at home in
// thread i%threads of worker i/threads. A slot whose home does not serve, or
// that has none because the crew is smaller than the one before, is adopted by
// the threads that have the least to do, and is not live: its queue is served,
// new connections go elsewhere. When nobody serves, everything stays at home
// and live, for whoever recovers first.
func assign(slots, threads int, crew []place) duty {
	d := duty{make([][]grant, len(crew)), make([]bool, slots)}
	load := idle(threads, crew)
	var orphans []int
	for slot := range slots {
		w, t := slot/threads, slot%threads
		if w >= len(crew) || (len(load) > 0 && !crew[w].serves(t)) {
			orphans = append(orphans, slot)
			continue
		}
		d.grants[w] = append(d.grants[w], grant{slot, t})
		d.live[slot] = true
	}
	for _, slot := range orphans {
		if len(load) == 0 {
			continue
		}
		least := slices.MinFunc(load, func(a, b *seat) int { return cmp.Compare(a.adopted, b.adopted) })
		least.adopted++
		d.grants[least.worker] = append(d.grants[least.worker], grant{slot, least.thread})
	}
	return d
}

// seat is one thread that serves, with the number of slots it adopted.
type seat struct{ worker, thread, adopted int }

func idle(threads int, crew []place) []*seat {
	var out []*seat
	for t := range threads { // one thread of every worker before the second of any
		for w, p := range crew {
			if p.serves(t) {
				out = append(out, &seat{worker: w, thread: t})
			}
		}
	}
	return out
}
