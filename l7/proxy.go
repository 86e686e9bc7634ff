// Package l7 is the proxy: what happens to a request between a client's
// connection and a backend's.
//
// A Proxy has a fixed number of threads, each one loop that runs to completion:
// read, parse, decide, write. Nothing on a loop blocks. What a request does is
// told by exchange.go, from top to bottom; server_h1.go and client_h1.go are
// the two sides it talks to. The methods of Proxy may be called concurrently.
package l7

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/cirque-lb/lb"
)

// Options says what a Proxy is made with.
type Options struct {
	Threads int // loops; at least 1
	Filters map[string]Builder
	Access  *os.File // the access log; nil: off
	Log     *slog.Logger
	Worker  string // its name in logs
}

// Proxy serves requests.
type Proxy struct {
	options Options
}

// Snapshot is one whole configuration, built.
type Snapshot struct {
	generation uint64
	config     *lb.Config
}

// New makes a proxy that serves nothing yet.
func New(o Options) (*Proxy, error) { return &Proxy{options: o}, nil }

// Prepare builds everything that cfg says, or fails and changes nothing. files
// holds the contents of all files that cfg names.
func (p *Proxy) Prepare(gen uint64, cfg *lb.Config, files map[string][]byte) (*Snapshot, error) {
	return &Snapshot{gen, cfg}, nil
}

// Commit switches s in. Requests in flight keep the snapshot they began with.
func (p *Proxy) Commit(s *Snapshot) {}

// SetState puts observed health and the operators' overlay over the snapshot.
func (p *Proxy) SetState(s lb.State) {}

// Accept makes the loop of a thread accept on fd, a listening non-blocking
// socket that the proxy owns from now on, whether it fails or not.
func (p *Proxy) Accept(thread int, listener string, fd int) error { return nil }

// StopAccept ends what Accept began and closes fd.
func (p *Proxy) StopAccept(listener string, fd int) {}

// Run runs the loops until ctx ends.
func (p *Proxy) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Drain takes no new connections, tells clients to go, and closes Done when
// none is left, or at the deadline.
func (p *Proxy) Drain(deadline time.Time) {}

// Done is closed when a drain is over.
func (p *Proxy) Done() <-chan struct{} { return nil }

// Beats returns, per thread, when its loop last turned.
func (p *Proxy) Beats() []time.Time { return nil }

// Stats reports what the proxy counted since it began.
func (p *Proxy) Stats() lb.Stats { return lb.Stats{} }
