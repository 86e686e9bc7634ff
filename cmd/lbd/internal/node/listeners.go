package node

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/cirque-lb/lb"
)

// A listener drains in this order. Its VIP is withdrawn: peers keep their new
// connections of it, and this node sends its own to them; until they have heard,
// who comes here is served. Then who comes is turned away and who is here told to
// go. When none is left, or drain.timeout is over, its sockets are closed: the
// kernel refuses who comes.

// steerTime is how long peers may take to hear that a VIP is withdrawn.
const steerTime = 3 * time.Second

// listenerDrains are the drains of listeners, by name. Owned by run.
type listenerDrains map[string]*listenerDrain

// listenerDrain is how far one is.
type listenerDrain struct {
	ordered time.Time // as the overlay has it; another order begins anew
	since   time.Time // the same, on our monotonic clock
	steers  bool      // peers may not have heard of it yet
	overdue bool
	empty   bool
	told    bool // the workers have heard of it: a count means something
	closing bool
	closed  bool // there are no sockets of it
}

func (d listenerDrains) are(what func(*listenerDrain) bool) map[string]bool {
	var out map[string]bool
	for name, l := range d {
		if what(l) {
			if out == nil {
				out = map[string]bool{}
			}
			out[name] = true
		}
	}
	return out
}

func (d *listenerDrain) isOverdue() bool { return d.overdue }
func (d *listenerDrain) isEmpty() bool   { return d.empty }
func (d *listenerDrain) isClosed() bool  { return d.closed }

// OrderListener drains a listener of this node, or takes the drain back: then its
// sockets are opened first, and when that is not possible it stays closed.
func (n *Node) OrderListener(ctx context.Context, name string, drain bool, a Asked) error {
	if !drain { // no change meanwhile that would go by the order
		if err := n.awaitServing(ctx); err != nil {
			return err
		}
		if err := n.changes.enter(ctx); err != nil {
			return err
		}
		defer n.changes.leave()
	}
	return n.order(ctx, a, func(now *Snapshot) (Overlay, error) {
		since, drains := now.Overlay.Listeners[name]
		if !drains && now.Config.Listener(name) == nil {
			return Overlay{}, fail(NotFound, "`lbctl listener list` shows them", "there is no listener %q", name)
		}
		o := now.Overlay
		o.Listeners = maps.Clone(o.Listeners)
		switch {
		case !drain:
			delete(o.Listeners, name)
			if !a.Dry {
				return o, n.openListener(ctx, name)
			}
		case drains:
			o.Listeners[name] = since
		default:
			if o.Listeners == nil {
				o.Listeners = map[string]time.Time{}
			}
			o.Listeners[name] = n.o.Now().UTC()
		}
		return o, nil
	}, lb.Event{Kind: "listener." + verb(drain), Subject: name, Detail: "by " + a.By})
}

func (n *Node) openListener(ctx context.Context, name string) error {
	if err := n.o.Fleet.OpenListener(context.WithoutCancel(ctx), name); err != nil {
		return because(err, Conflict, "free the address and try again: the listener drains as before", "listener %s cannot be opened", name)
	}
	return n.do(func() {
		n.paths.force = true
		if d := n.listeners[name]; d != nil {
			d.closed = false // should the order not be kept, it is closed again
		}
	})
}

// drained are the listeners whose sockets a change shall not open.
func (o Overlay) drained() (names []string) {
	for name := range o.Listeners {
		names = append(names, name)
	}
	return names
}

// steers reports whether peers may not have heard yet that a listener's VIP is
// withdrawn.
func (n *Node) steers(name string) bool {
	l := n.running.config.Listener(name)
	began := since(n.overlay.Listeners[name], n.o.Now())
	if d := n.listeners[name]; d != nil {
		began = d.since
	}
	return n.o.Cluster != nil && l != nil && !IsLocal(l.Bind.Addr(), n.address) && n.o.Now().Sub(began) < steerTime
}

// steering are the listeners of which that is so.
func (n *Node) steering() map[string]bool {
	out := map[string]bool{}
	for name := range n.overlay.Listeners {
		if n.steers(name) {
			out[name] = true
		}
	}
	return out
}

// tickListeners moves the drains of listeners on; it reports whether anything
// changed.
func (n *Node) tickListeners() bool {
	if len(n.overlay.Listeners) == 0 && len(n.listeners) == 0 {
		return false
	}
	changed := n.followListeners()
	timeout := n.running.config.Drain.Timeout
	for name, d := range n.listeners {
		if steers := n.steers(name); steers != d.steers {
			d.steers, changed = steers, true
		}
		if !d.steers && (d.empty || d.overdue) && !d.closed && !d.closing {
			n.closeListener(name, d)
		}
		if !d.overdue && n.o.Now().Sub(d.since) >= timeout { // the workers cut what is left before the next turn
			d.overdue, changed = true, true
			if !d.empty {
				n.event(lb.Event{Kind: "listener.drain-overdue", Subject: name, Reason: lb.Draining,
					Detail: fmt.Sprintf("after %s; what is left is closed", timeout)})
			}
		}
	}
	n.countListeners()
	return changed
}

// followListeners begins and ends drains as the overlay says; it reports whether
// one did.
func (n *Node) followListeners() (changed bool) {
	if n.listeners == nil {
		n.listeners = listenerDrains{}
	}
	maps.DeleteFunc(n.listeners, func(name string, d *listenerDrain) bool {
		ordered, drains := n.overlay.Listeners[name]
		over := !drains || !ordered.Equal(d.ordered)
		changed = changed || over
		return over
	})
	for name, ordered := range n.overlay.Listeners {
		if n.listeners[name] == nil {
			n.listeners[name] = &listenerDrain{ordered: ordered, since: since(ordered, n.o.Now()), steers: n.steers(name)}
		}
	}
	return changed
}

// closeListener closes a listener's sockets, off the loop. No order is carried
// out meanwhile: one that takes the drain back comes before, or opens them again.
func (n *Node) closeListener(name string, d *listenerDrain) {
	d.closing = true
	n.group.Go(func() {
		closed, err := n.closeDrained(name, d.ordered)
		n.do(func() {
			d.closing = false
			switch {
			case err != nil:
				n.log.Warn("a listener that has drained is not closed yet", "listener", name, "err", err)
				return
			case closed:
				n.event(lb.Event{Kind: "listener.closed", Subject: name, Reason: lb.Draining, Detail: "who comes is refused"})
			}
			d.closed = true
			n.paths.force = true
		})
	})
}

func (n *Node) closeDrained(name string, ordered time.Time) (closed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), applyTime)
	defer cancel()
	if err := n.orders.enter(ctx); err != nil {
		return false, err
	}
	defer n.orders.leave()
	if now, drains := n.snapshot.Load().Overlay.Listeners[name]; !drains || !now.Equal(ordered) {
		return false, nil
	}
	n.sockets.Lock()
	defer n.sockets.Unlock()
	return n.o.Fleet.CloseListener(ctx, name)
}

// countListeners asks the workers how many connections are left, off the loop.
func (n *Node) countListeners() {
	if n.counting || len(n.listeners) == 0 {
		return
	}
	n.counting = true
	n.group.Go(func() {
		left := map[string]float64{}
		for _, s := range n.Stats().Samples {
			if s.Name == "lbd_connections" && len(s.Labels) == 2 {
				left[s.Labels[1]] += s.Value
			}
		}
		n.do(func() {
			n.counting = false
			for name, d := range n.listeners {
				if was := d.empty; d.told {
					if d.empty = left[name] == 0; d.empty && !was {
						n.event(lb.Event{Kind: "listener.empty", Subject: name, Reason: lb.Draining})
					}
				}
				d.told = !d.steers // from the next count on
			}
		})
	})
}

// ListenerDrain says how a listener drains: since when, and whether it is empty
// and its sockets are closed.
func (s *Snapshot) ListenerDrain(name string) (since time.Time, state string) {
	since, drains := s.Overlay.Listeners[name]
	switch {
	case !drains:
	case s.ClosedListeners[name] && s.EmptyListeners[name]:
		state = "closed"
	case s.EmptyListeners[name]:
		state = "empty"
	default:
		state = "draining"
	}
	return since, state
}

// everyListenerDrains: nothing is served, because operators said so.
func everyListenerDrains(f Facts) bool {
	for _, l := range f.Config.Listeners {
		if _, drains := f.Overlay.Listeners[l.Name]; !drains {
			return false
		}
	}
	return len(f.Config.Listeners) > 0
}
