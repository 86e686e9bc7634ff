// Package admin is the admin API of a node: its types, its server and its
// client together, so that they cannot drift.
//
// The API is HTTP and JSON over a unix socket; errors are problem+json with a
// code. A second, read-only server on a TCP address has /metrics, /healthz and
// /readyz and can change nothing. Start at Control, then Handler and Client.
package admin

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/cirque-lb/lb"
)

// Control is what the server serves: a node. Its methods may be called
// concurrently; an *Error says which status and code to answer with. By is who
// asks, for the history and the log.
type Control interface {
	Status(context.Context) (Status, error)
	Backends(context.Context) ([]Backend, error)
	Samples() []lb.Sample // everything /metrics shows
	Ready() error         // why this node shall get no traffic
	// Events lists what came after the given sequence number, oldest first,
	// and a channel that is closed when there is more.
	Events(after uint64) ([]Event, <-chan struct{})
	Explain(context.Context, Question) (Explanation, error)

	Document(ctx context.Context, generation string) (Document, error) // "": the running one
	History(context.Context) ([]Generation, error)
	Diff(ctx context.Context, text []byte) ([]Change, error)
	Apply(ctx context.Context, a Apply, by string) (Applied, error)
	Adopt(ctx context.Context, by string) (Applied, error)
	Rollback(ctx context.Context, generation, by string) (Applied, error)
	Reload(ctx context.Context, by string) (Applied, error)
	EditBackend(ctx context.Context, e BackendEdit, by string) (Applied, error)

	OrderBackend(ctx context.Context, o BackendOrder, by string) error
	OrderNode(ctx context.Context, o NodeOrder, by string) error
	Upgrade(ctx context.Context, o UpgradeOrder, by string) error
}

// Handler serves the whole API; it belongs on the unix socket only.
func Handler(c Control, log *slog.Logger) http.Handler { return http.NotFoundHandler() }

// ReadOnly serves /metrics, /healthz and /readyz.
func ReadOnly(c Control) http.Handler { return http.NotFoundHandler() }
