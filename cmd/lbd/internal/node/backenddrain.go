package node

import (
	"fmt"
	"maps"
	"time"

	"github.com/cirque-lb/lb"
)

// backendDrains are the drains of backends. Owned by run.
type backendDrains map[lb.BackendID]*backendDrain

// backendDrain is how far one is: it gets no new requests, and those in progress
// have drain.timeout.
type backendDrain struct {
	ordered time.Time // as the overlay has it; another order begins anew
	since   time.Time // the same, on our monotonic clock
	overdue bool
	empty   bool
	told    bool // the workers have heard of it: a count means something
}

func (d backendDrains) overdue() map[lb.BackendID]bool {
	var out map[lb.BackendID]bool
	for id, b := range d {
		if b.overdue {
			if out == nil {
				out = map[lb.BackendID]bool{}
			}
			out[id] = true
		}
	}
	return out
}

// cutOverdue marks the orders whose time is over.
func cutOverdue(orders map[lb.BackendID]lb.Admin, overdue map[lb.BackendID]bool) map[lb.BackendID]lb.Admin {
	if len(overdue) == 0 {
		return orders
	}
	orders = maps.Clone(orders)
	for id := range overdue {
		if a, ordered := orders[id]; ordered && a.Drain {
			a.Cut = true
			orders[id] = a
		}
	}
	return orders
}

// tickBackends moves the drains of backends on; it reports whether anything
// changed.
func (n *Node) tickBackends() (changed bool) {
	if len(n.overlay.Backends) == 0 && len(n.backends) == 0 {
		return false
	}
	changed = n.followBackends()
	timeout := n.running.config.Drain.Timeout
	for id, d := range n.backends {
		if d.overdue || n.o.Now().Sub(d.since) < timeout {
			continue
		}
		d.overdue, changed = true, true
		if !d.empty {
			n.event(lb.Event{Kind: "backend.drain-overdue", Subject: id.String(), Reason: lb.Draining,
				Detail: fmt.Sprintf("after %s; what is left is cut", timeout)})
		}
	}
	n.addUpBackends()
	return changed
}

// followBackends begins and ends drains as the overlay says, of backends that are
// configured; it reports whether one that mattered ended.
func (n *Node) followBackends() (changed bool) {
	if n.backends == nil {
		n.backends = backendDrains{}
	}
	maps.DeleteFunc(n.backends, func(id lb.BackendID, d *backendDrain) bool {
		a := n.overlay.Backends[id]
		over := !a.Drain || !a.Since.Equal(d.ordered)
		changed = changed || over && d.overdue
		return over
	})
	for id, a := range n.overlay.Backends {
		if !a.Drain || a.Since.IsZero() || n.backends[id] != nil { // an order of a version that noted no time has no end
			continue
		}
		if p := n.running.config.Pool(id.Pool); p != nil && backend(p, id.Address) != nil {
			n.backends[id] = &backendDrain{ordered: a.Since, since: since(a.Since, n.o.Now())}
		}
	}
	return changed
}

// addUpBackends asks the workers what is in progress, off the loop.
func (n *Node) addUpBackends() {
	if n.adding || len(n.backends) == 0 {
		return
	}
	n.adding = true
	n.group.Go(func() {
		left := map[lb.BackendID]int{}
		for _, b := range n.Stats().Backends {
			left[b.ID] += b.Active
		}
		n.do(func() {
			n.adding = false
			for id, d := range n.backends {
				if was := d.empty; d.told {
					if d.empty = left[id] == 0; d.empty && !was {
						n.event(lb.Event{Kind: "backend.empty", Subject: id.String(), Reason: lb.Draining})
					}
				}
				d.told = true // from the next count on
			}
		})
	})
}
