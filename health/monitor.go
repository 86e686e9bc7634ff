// Package health decides whether backends are up.
//
// A Monitor probes each target and reports changes only, after rise or fall
// results in a row. What it knows is kept by (pool, backend, check), so it
// survives reloads that change weights. All methods may be called
// concurrently. Start at Monitor.Run.
package health

import (
	"context"
	"net"
	"time"

	"github.com/cirque-lb/lb"
)

// Target is one backend to probe.
type Target struct {
	ID    lb.BackendID
	Check lb.Check // with its defaults filled in, as lb.Parse does
}

// Targets lists what cfg wants probed: every backend of every pool with a check.
func Targets(cfg *lb.Config) []Target {
	var targets []Target
	for _, pool := range cfg.Pools {
		if pool.Check == nil {
			continue
		}
		for _, b := range pool.Backends {
			targets = append(targets, Target{ID: lb.BackendID{Pool: pool.Name, Address: b.Address}, Check: *pool.Check})
		}
	}
	return targets
}

// Change is a backend that went up or down.
type Change struct {
	ID       lb.BackendID
	From, To lb.Health
	At       time.Time
	Detail   string // what the last probe said
}

// Event is the change as an operator reads it.
func (c Change) Event() lb.Event {
	return lb.Event{Time: c.At, Kind: "backend." + c.To.String(), Subject: c.ID.String(), Detail: c.Detail}
}

// Result is what one probe found.
type Result struct {
	At     time.Time     `json:"at"`
	OK     bool          `json:"ok"`
	Took   time.Duration `json:"took"`
	Detail string        `json:"detail"` // "status 200"; "connect: connection refused"
}

// Detail is everything known of one backend.
type Detail struct {
	ID     lb.BackendID `json:"id"`
	Health lb.Health    `json:"health"`
	Since  time.Time    `json:"since"`   // of the last change; zero while unknown
	Reason string       `json:"reason"`  // what the probe said that changed it
	Streak int          `json:"streak"`  // equal results in a row, the last one included
	Last   []Result     `json:"results"` // newest first, at most 8
	Probes uint64       `json:"probes"`
	Fails  uint64       `json:"fails"`
}

// Options configures a Monitor. The zero value is usable.
type Options struct {
	// Changed is told of every change, in order, from one goroutine; it must
	// not block. Nil: nobody is told.
	Changed func(Change)
	Workers int // probes in flight at once; default 256
	// Dial opens a probe's connection; default a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Monitor probes targets. Make one with New.
type Monitor struct{ options Options }

// New makes a Monitor without targets; nothing is probed before Run.
func New(o Options) *Monitor { return &Monitor{options: o} }

// Update replaces the targets. A target whose backend and check are as before
// keeps its state and its schedule; a new one is probed at once.
func (m *Monitor) Update(targets []Target) {}

// Run probes until ctx ends, then waits for the probes in flight.
func (m *Monitor) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// State is the health of every target now; the map belongs to the caller.
func (m *Monitor) State() map[lb.BackendID]lb.Health { return nil }

// Details lists every target with its last results, sorted by identity.
func (m *Monitor) Details() []Detail { return nil }
