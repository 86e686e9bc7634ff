package node

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/cirque-lb/lb"
)

// listenerDrains are the drains of listeners, by name. Owned by run.
type listenerDrains map[string]*listenerDrain

// listenerDrain is how far one is: clients that come are turned away and those
// that are here told to go, until none is left or drain.timeout is over.
type listenerDrain struct {
	since   time.Time // it was ordered; another order begins anew
	overdue bool
	empty   bool
	told    bool // the workers have heard of it: a count means something
}

func (d listenerDrains) overdue() map[string]bool {
	var out map[string]bool
	for name, l := range d {
		if l.overdue {
			if out == nil {
				out = map[string]bool{}
			}
			out[name] = true
		}
	}
	return out
}

// OrderListener drains a listener of this node, or takes the drain back.
func (n *Node) OrderListener(ctx context.Context, name string, drain bool, a Asked) error {
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

// tickListeners moves the drains of listeners on; it reports whether anything
// changed.
func (n *Node) tickListeners() bool {
	if len(n.overlay.Listeners) == 0 && len(n.listeners) == 0 {
		return false
	}
	if n.listeners == nil {
		n.listeners = listenerDrains{}
	}
	changed := false
	maps.DeleteFunc(n.listeners, func(name string, d *listenerDrain) bool {
		since, drains := n.overlay.Listeners[name]
		over := !drains || !since.Equal(d.since)
		changed = changed || over
		return over
	})
	for name, since := range n.overlay.Listeners {
		d := n.listeners[name]
		if d == nil {
			d = &listenerDrain{since: since}
			n.listeners[name] = d
		}
		timeout := n.running.config.Drain.Timeout
		if !d.overdue && n.o.Now().Sub(since) >= timeout {
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
				d.told = true // from the next count on
			}
		})
	})
}

// ListenerDrain says how a listener drains: since when, and whether it is empty.
func (s *Snapshot) ListenerDrain(name string) (since time.Time, empty, drains bool) {
	since, drains = s.Overlay.Listeners[name]
	return since, drains && s.EmptyListeners[name], drains
}

// emptied are the listeners that drain and have no connection left.
func (d listenerDrains) emptied() map[string]bool {
	out := map[string]bool{}
	for name, l := range d {
		if l.empty {
			out[name] = true
		}
	}
	return out
}
