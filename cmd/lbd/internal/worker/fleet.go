// Package worker runs the processes that serve requests.
//
// A Fleet is the supervisor's side: it owns every listening socket, starts the
// worker processes, hands them duplicates of all sockets and one configuration
// at a time, watches them, and outlives none of them: workers go on when their
// supervisor is gone, and the next OpenFleet finds and adopts them. Main is the
// side of the worker process. Both speak the protocol of wire.go over a unix
// socket in the run directory.
//
// All methods of a Fleet may be called concurrently; Apply, Upgrade and
// Shutdown wait for each other. Start at OpenFleet, then Fleet.Apply.
package worker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/cirque-lb/lb"
)

// Options says what a Fleet cannot know by itself.
type Options struct {
	RunDir string // sockets and the lock; created when missing

	// Binary is the program whose "worker" command is a worker: lbd's own
	// path, resolved when it started.
	Binary  string
	Version string // ours, for the log

	// Parse reads a document as the caller does; it serves to understand the
	// document that adopted workers hold.
	Parse func(file string, document []byte) (*lb.Config, error)

	Log    *slog.Logger
	Stderr *os.File // the workers'; nil: ours
	Stdout *os.File // where the access log "stdout" goes; nil: ours
}

// Update is one configuration for all workers.
type Update struct {
	Generation uint64
	File       string            // the document's name in messages
	Document   []byte            // what every worker parses with its own filters
	Files      map[string][]byte // the contents of every file the document names
	Config     *lb.Config        // the parsed document

	// Persist, when set, is called once every worker has built the document and
	// before any worker switches to it. Its error leaves everything as it was.
	Persist func() error
}

// WorkerInfo is what is known of one worker process.
type WorkerInfo struct {
	Crew       int       `json:"crew"`  // the start or upgrade it belongs to
	Index      int       `json:"index"` // its place in the crew
	PID        int       `json:"pid"`
	State      string    `json:"state"` // starting | ready | stuck | draining | down
	Ready      bool      `json:"ready"`
	Slots      []int     `json:"slots"` // it accepts on these now
	Generation uint64    `json:"generation"`
	Version    string    `json:"version"`
	Since      time.Time `json:"since"`    // when it started or was adopted
	Restarts   int       `json:"restarts"` // of this place in the crew
	Adopted    bool      `json:"adopted"`  // it was started by an earlier supervisor
	Detail     string    `json:"detail,omitempty"`
}

// ErrClosed is returned by what is called after Close or Shutdown.
var ErrClosed = errors.New("the workers are shut down")

// Fleet is all workers of this node.
type Fleet struct{}

// OpenFleet takes the run directory (one lbd at a time) and adopts the workers
// that an earlier supervisor left in it, if any.
func OpenFleet(ctx context.Context, o Options) (*Fleet, error) {
	return nil, errors.New("not built yet")
}

// Adopted returns the configuration that adopted workers serve; nil when there
// were none.
func (f *Fleet) Adopted() *Update { return nil }

// Apply makes every worker serve the update, or none: sockets are opened, every
// worker builds it, Persist is called, every worker switches. The first Apply
// starts the workers. An error leaves what ran untouched.
func (f *Fleet) Apply(ctx context.Context, u Update) error { return ErrClosed }

// SetState gives health and the operators' overlay to all workers, now and to
// those that start later. It does not wait.
func (f *Fleet) SetState(s lb.State) {}

// Upgrade starts a new crew from binary ("" is Options.Binary), has it take
// over all sockets, and lets the old crew drain. When the new crew is not ready
// in time it is killed, the old one keeps serving and the error says why.
func (f *Fleet) Upgrade(ctx context.Context, binary string) error { return ErrClosed }

// Stats sums what all workers counted, those that are gone included.
func (f *Fleet) Stats() lb.Stats { return lb.Stats{} }

// Crew lists the worker processes: of the current crew by index, then those
// that drain.
func (f *Fleet) Crew() []WorkerInfo { return nil }

// Sockets lists what is bound, with each slot's listening socket. The
// descriptors stay the Fleet's; they are valid until the next Apply, Upgrade,
// Shutdown or Close.
func (f *Fleet) Sockets() []lb.SteeredBind { return nil }

// Notes are lines for the status: what runs otherwise than an operator may
// expect, and why.
func (f *Fleet) Notes() []string { return nil }

// Changed receives when Sockets or Crew may say something new. One value may
// stand for several changes.
func (f *Fleet) Changed() <-chan struct{} { return nil }

// Events receives what happens to workers: worker.start, worker.adopt,
// worker.exit, worker.stuck, worker.recover, crew.upgrade, crew.drained.
// Events that nobody receives in time are dropped.
func (f *Fleet) Events() <-chan lb.Event { return nil }

// ReopenLogs opens the access log's file anew and hands it to the workers.
func (f *Fleet) ReopenLogs() error { return nil }

// Shutdown drains all workers, at most until ctx ends or the drain timeout of
// the configuration, ends them and closes all sockets.
func (f *Fleet) Shutdown(ctx context.Context) error { return nil }

// Close lets go of the workers, which serve on by themselves.
func (f *Fleet) Close() error { return nil }
