package node

import (
	"sync"
	"time"

	"github.com/cirque-lb/lb"
)

// statsFresh is how old the workers' numbers may be: many readers cost the
// workers one question.
const statsFresh = 200 * time.Millisecond

type statsCache struct {
	mu    sync.Mutex // guards the fields below, and is held while asking
	asked time.Time
	last  lb.Stats
}

// Crew lists the workers as they are now, with what they have to do.
func (n *Node) Crew() []Worker {
	return n.o.Fleet.Crew()
}

// Stats is what all workers counted, those that are gone included. It must
// not be changed.
func (n *Node) Stats() lb.Stats {
	c := &n.stats
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := n.o.Now(); c.asked.IsZero() || now.Sub(c.asked) >= statsFresh {
		c.last = n.o.Fleet.Stats()
		c.asked = n.o.Now()
	}
	return c.last
}

// forget makes the next reader ask: who gave an order wants to see its effect,
// not what was before it.
func (c *statsCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = time.Time{}
}

// Reports is what the monitor knows of every backend with a check.
func (n *Node) Reports() []Report {
	if n.o.Monitor == nil {
		return nil
	}
	return n.o.Monitor.Report()
}

// Packets is what the datapath counted.
func (n *Node) Packets() []lb.Sample {
	if n.o.Datapath == nil {
		return nil
	}
	return n.o.Datapath.Samples()
}

// Explain says what the datapath does with a flow; false without one.
func (n *Node) Explain(t lb.Tuple) (Path, bool) {
	if n.o.Datapath == nil {
		return Path{Row: -1, Slot: -1}, false
	}
	return n.o.Datapath.Explain(t), true
}

// Crashes lists the last workers that ended by themselves, newest first.
func (n *Node) Crashes() []lb.Crash { return n.o.Fleet.Crashes() }

// Refused lists the last malformed requests, newest first.
func (n *Node) Refused() []lb.Refusal { return n.o.Fleet.Refused() }
