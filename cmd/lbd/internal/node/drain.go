package node

import (
	"context"
	"fmt"
	"time"

	"github.com/cirque-lb/lb"
)

// cutTime is how long the workers have to close what is left when a drain is
// overdue.
const cutTime = 5 * time.Second

// drain is how far this node is with leaving. Owned by run.
type drain struct {
	leaving bool // by Leave, not by an order
	since   time.Time
	overdue bool
	empty   bool          // no client connection is left
	done    chan struct{} // closed when empty, or overdue and cut; nil: not draining
	asked   bool          // a count of connections is on its way
}

// Leave tells clients and peers to go and returns when the node is empty, or
// drain.timeout is over, or ctx ends: the first half of SIGTERM. Unlike a
// drain by order it is forgotten at the next start.
func (n *Node) Leave(ctx context.Context) error {
	var done chan struct{}
	err := n.do(func() {
		if !n.drain.leaving {
			n.event(lb.Event{Kind: "node.leave", Subject: n.booted.Node.Name, Reason: lb.Draining})
		}
		n.drain.leaving = true
		n.ordered()
		done = n.drain.done
	})
	if err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return nil
	}
}

// ordered starts or ends a drain after the overlay or leaving changed.
func (n *Node) ordered() {
	draining := n.drain.leaving || !n.overlay.DrainSince.IsZero()
	switch {
	case !draining:
		n.drain = drain{}
	case n.drain.done == nil:
		n.drain.done = make(chan struct{})
		n.drain.since = n.o.Now()
		if !n.drain.leaving {
			n.drain.since = since(n.overlay.DrainSince, n.o.Now()) // perhaps before a restart
		}
		// Counting begins with the next tick: workers and peers have to hear
		// of the drain before an empty node means anything.
	}
}

// tickDrain moves a drain on; it reports whether anything changed.
func (n *Node) tickDrain() bool {
	if n.drain.done == nil {
		return false
	}
	n.count()
	over := n.o.Now().Sub(n.drain.since) - n.running.config.Drain.Timeout
	if over >= cutTime {
		n.drain.finish()
	}
	if n.drain.overdue || over < 0 {
		return false
	}
	n.drain.overdue = true
	n.event(lb.Event{Kind: "node.drain-overdue", Subject: n.booted.Node.Name, Reason: lb.Draining,
		Detail: fmt.Sprintf("after %s; what is left is closed", n.running.config.Drain.Timeout)})
	return true
}

// count asks the workers how many connections are left, off the loop.
func (n *Node) count() {
	if n.drain.asked {
		return
	}
	n.drain.asked = true
	n.group.Go(func() {
		left := n.Stats().Connections
		n.do(func() { n.counted(left) })
	})
}

func (n *Node) counted(left int) {
	n.drain.asked = false
	if n.drain.done == nil || n.drain.empty == (left == 0) {
		return
	}
	n.drain.empty = left == 0
	if !n.drain.empty {
		return
	}
	n.event(lb.Event{Kind: "node.empty", Subject: n.booted.Node.Name, Reason: lb.Draining})
	n.drain.finish()
}

// finish lets go of who waits for the end of the drain.
func (d *drain) finish() {
	select {
	case <-d.done:
	default:
		close(d.done)
	}
}
