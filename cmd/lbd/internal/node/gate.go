package node

import (
	"context"
	"sync/atomic"
)

// gate lets one through at a time and bounds who waits.
type gate struct {
	token chan struct{}
	queue *atomic.Int32
}

func newGate() gate { return gate{make(chan struct{}, 1), new(atomic.Int32)} }

// enter waits for the turn; leave must follow when there is no error.
func (g gate) enter(ctx context.Context) error {
	defer g.queue.Add(-1)
	if g.queue.Add(1) > waiting {
		return fail(Busy, "try again in a moment", "%d changes wait already", waiting)
	}
	select {
	case g.token <- struct{}{}:
		return nil
	case <-ctx.Done():
		return because(ctx.Err(), Busy, "try again in a moment", "another change is under way")
	}
}

func (g gate) leave() { <-g.token }
