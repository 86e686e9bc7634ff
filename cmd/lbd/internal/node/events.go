package node

import (
	"sync"

	"github.com/cirque-lb/lb"
)

// remembered is how many events the ring holds.
const remembered = 1024

// ring keeps the newest events. Readers never hold up a writer: who is too
// slow misses what was overwritten, and sees it by the numbers.
type ring struct {
	mu     sync.Mutex // guards the fields below
	events [remembered]Numbered
	next   uint64        // number of the next event; the first is 1
	more   chan struct{} // closed by the next event
}

// Numbered is an event with its place in the order of all.
type Numbered struct {
	Seq uint64
	lb.Event
}

func (r *ring) add(e lb.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	r.events[r.next%remembered] = Numbered{r.next, e}
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// after lists the events after a number, oldest first, and a channel that is
// closed when there is another.
func (r *ring) after(seq uint64) ([]Numbered, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := seq + 1
	if r.next >= remembered {
		first = max(first, r.next-remembered+1)
	}
	var out []Numbered
	for i := max(first, 1); i <= r.next; i++ {
		out = append(out, r.events[i%remembered])
	}
	if r.more == nil {
		r.more = make(chan struct{})
	}
	return out, r.more
}
