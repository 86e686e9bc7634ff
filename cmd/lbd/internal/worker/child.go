package worker

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/cirque-lb/lb"
)

// Server is what a worker process runs: the proxy. The methods are those of
// l7.Proxy, whose documentation says what they promise.
type Server interface {
	// Prepare builds everything for a configuration; commit switches it in.
	Prepare(generation uint64, c *lb.Config, files map[string][]byte) (commit func(), err error)
	SetState(lb.State)
	Accept(thread int, listener string, fd int) error
	StopAccept(listener string, fd int)
	Run(context.Context) error
	Drain(deadline time.Time)
	Done() <-chan struct{}
	Beats() []time.Time
	Stats() lb.Stats
}

// Start is what a new worker process knows before it has a configuration.
type Start struct {
	Name    string // "crew.index"
	Threads int
	Access  *os.File // nil: no access log
	Log     *slog.Logger
}

// Child is the worker process's side.
type Child struct {
	Version string
	Parse   func(file string, document []byte) (*lb.Config, error)
	New     func(Start) (Server, error)
}

// Main serves as a worker process until it is told to end, and returns the
// process's exit code. args are those after the command's name.
func (c Child) Main(args []string) int { return 1 }
