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
	Diff(ctx context.Context, text []byte, file string) (Applied, error)
	Apply(ctx context.Context, a Apply, by string) (Applied, error)
	Adopt(ctx context.Context, by string) (Applied, error)
	Rollback(ctx context.Context, generation, by string) (Applied, error)
	Reload(ctx context.Context, by string) (Applied, error)
	EditBackend(ctx context.Context, e BackendEdit, by string) (Applied, error)

	OrderBackend(ctx context.Context, o BackendOrder, by string) error
	OrderNode(ctx context.Context, o NodeOrder, by string) error
	Upgrade(ctx context.Context, o UpgradeOrder, by string) error
}

// Bounds of a request.
const (
	maxDocument = 16 << 20
	maxOrder    = 64 << 10
)

// api serves a Control over HTTP.
type api struct {
	control Control
	log     *slog.Logger
}

// Handler serves the whole API; it belongs on the unix socket only.
func Handler(c Control, log *slog.Logger) http.Handler {
	a := &api{c, log}
	mux := http.NewServeMux()
	for _, e := range a.endpoints() {
		mux.HandleFunc(e.method+" "+e.path, a.serve(e))
	}
	mux.Handle("GET /", ReadOnly(c))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &Error{Status: http.StatusNotFound, Code: CodeNotFound, Detail: "there is no " + r.Method + " " + r.URL.Path})
	})
	return mux
}

// endpoint is one method of one path. A change is logged with who asked.
type endpoint struct {
	method, path string
	change       bool
	handle       func(w http.ResponseWriter, r *http.Request) error
}

func (a *api) endpoints() []endpoint {
	return []endpoint{
		{"GET", "/v1/status", false, read(a.control.Status)},
		{"GET", "/v1/listeners", false, part(a.control, func(s Status) any { return s.Listeners })},
		{"GET", "/v1/routes", false, part(a.control, func(s Status) any { return s.Routes })},
		{"GET", "/v1/pools", false, part(a.control, func(s Status) any { return s.Pools })},
		{"GET", "/v1/nodes", false, part(a.control, func(s Status) any { return s.Nodes })},
		{"GET", "/v1/backends", false, read(a.control.Backends)},
		{"GET", "/v1/version", false, part(a.control, func(s Status) any { return thisVersion(s.Version) })},
		{"GET", "/v1/events", false, a.events},
		{"POST", "/v1/explain", false, order(a.control.Explain)},

		{"GET", "/v1/config", false, a.document},
		{"PUT", "/v1/config", true, a.apply},
		{"POST", "/v1/config/diff", false, a.diff},
		{"GET", "/v1/config/history", false, read(a.control.History)},
		{"POST", "/v1/config/adopt", true, change(a.control.Adopt)},
		{"POST", "/v1/config/reload", true, change(a.control.Reload)},
		{"POST", "/v1/config/rollback", true, a.rollback},

		{"POST", "/v1/backends", true, a.editBackend},
		{"POST", "/v1/backends/order", true, ordered(a.control.OrderBackend)},
		{"POST", "/v1/nodes/order", true, ordered(a.control.OrderNode)},
		{"POST", "/v1/upgrade", true, ordered(a.control.Upgrade)},
	}
}

// serve bounds an endpoint, logs changes and turns its error into an answer.
func (a *api) serve(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.SetWriteDeadline(deadline()) // an error means a test's recorder, which waits for nobody
		r.Body = http.MaxBytesReader(w, r.Body, maxDocument)
		err := e.handle(w, r)
		if e.change {
			a.audit(r, err)
		}
		if err != nil {
			writeError(w, err)
		}
	}
}

// audit logs every attempt to change something, with the peer's credentials.
func (a *api) audit(r *http.Request, err error) {
	attrs := []any{"method", r.Method, "path", r.URL.RequestURI(), "by", peer(r)}
	if err != nil {
		a.log.Warn("admin change refused", append(attrs, "error", err)...)
		return
	}
	a.log.Info("admin change", attrs...)
}

func read[T any](get func(context.Context) (T, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := get(r.Context())
		if err != nil {
			return err
		}
		return writeJSON(w, v)
	}
}

// part serves one list of the status.
func part(c Control, of func(Status) any) func(http.ResponseWriter, *http.Request) error {
	return read(func(ctx context.Context) (any, error) {
		s, err := c.Status(ctx)
		return of(s), err
	})
}

// order serves a question or an order in JSON that has an answer.
func order[In, Out any](do func(context.Context, In) (Out, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var in In
		if err := readJSON(r, &in); err != nil {
			return err
		}
		out, err := do(r.Context(), in)
		if err != nil {
			return err
		}
		return writeJSON(w, out)
	}
}

// ordered serves an order in JSON without an answer.
func ordered[In any](do func(context.Context, In, string) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		return order(func(ctx context.Context, in In) (struct{}, error) {
			return struct{}{}, do(ctx, in, peer(r))
		})(w, r)
	}
}

// change serves a change that needs no more to be said.
func change(do func(context.Context, string) (Applied, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		return read(func(ctx context.Context) (Applied, error) { return do(ctx, peer(r)) })(w, r)
	}
}
