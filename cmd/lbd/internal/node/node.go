// Package node is the owner of a node's state: which configuration runs, what
// operators ordered, who is healthy, who is here.
//
// One loop, Node.Run, owns it. Admin handlers, signals, health changes,
// cluster changes and worker events reach the loop as requests; a pure
// function, Plan, decides what the workers, the datapath, the monitor and the
// cluster shall be told; what readers see is an immutable Snapshot. All
// methods of Node may be called concurrently. Start at Load, New and Run.
package node

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/cirque-lb/lb"
)

// Options says what a node is made of.
type Options struct {
	State    *State   // from Load
	Fleet    Fleet    // required
	Monitor  Monitor  // nil: every backend stays unknown, which counts as up
	Cluster  Cluster  // nil: this node is alone
	Datapath Datapath // nil: no fast path, DatapathError says why
	// DatapathError is why there is no Datapath; with fastpath.required New fails.
	DatapathError error
	Version       string
	Log           *slog.Logger
	Addresses     func() ([]netip.Addr, error) // of non-loopback interfaces; nil: the host's
	Now           func() time.Time             // nil: time.Now
}

// Node owns the state of one lbd.
type Node struct {
	options Options
}

// New makes a node; Run brings it to life.
func New(o Options) (*Node, error) { return &Node{options: o}, nil }

// Run applies the loaded configuration, then serves requests until ctx ends.
// Workers go on serving after it. It returns an error only when the first
// configuration cannot be applied.
func (n *Node) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Reload reads the file again: SIGHUP.
func (n *Node) Reload(ctx context.Context, by string) (Applied, error) { return Applied{}, nil }

// Note records an event (from the fleet, the monitor, the cluster) and makes
// the loop look again at all of them. It never blocks.
func (n *Node) Note(e lb.Event) {}

// Leave tells clients and peers to go and returns when the node is empty, or
// drain.timeout is over, or ctx ends: the first half of SIGTERM. Unlike
// DrainNode it is forgotten at the next start.
func (n *Node) Leave(ctx context.Context) error { return nil }

// State is what a node knows before anything runs: the document and the
// operators' overlay, as file and data_dir have them.
type State struct {
	config *lb.Config
}

// Load reads the file and what data_dir keeps, and decides which document is
// the first to run.
func Load(file string, parse func([]byte) (*lb.Config, error)) (*State, error) {
	return &State{}, nil
}

// Config is the configuration that will run first: what main opens the fleet,
// the datapath and the cluster with.
func (s *State) Config() *lb.Config { return s.config }

// Applied is the verdict on an accepted change.
type Applied struct {
	Generation string   `json:"generation"`
	Changed    bool     `json:"changed"`
	Notes      []string `json:"notes,omitempty"` // what takes a restart, what was ignored
}
