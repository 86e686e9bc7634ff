// Package admin is the admin API of a node: its types, its server, its client
// and its description together, so that they cannot drift.
//
// The API is HTTP and JSON over a unix socket; errors are problem+json with a
// code. A second socket and a TCP address only read. What there is stands in
// one table, endpoints.go, of which the OpenAPI description is made. Start at
// Control, then Handler and Client.
package admin

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/cirque-lb/lb"
)

// Control is what the server serves: a node. Its methods may be called
// concurrently; an *Error says which status and code to answer with.
type Control interface {
	Status(context.Context) (Status, error)
	Backends(context.Context) ([]Backend, error)
	Story(ctx context.Context, backend string) (Story, error)
	Traffic(context.Context) (Traffic, error)
	Certificates(context.Context) ([]Certificate, error)
	Crashes(context.Context) ([]lb.Crash, error) // of workers, newest first
	Refused(context.Context) ([]Refusal, error)  // the last malformed requests, newest first
	Explain(context.Context, Question) (Explanation, error)
	Capture(ctx context.Context, o CaptureOrder, to io.Writer) (CaptureDone, error) // as pcapng
	Samples() []lb.Sample                                                           // everything /metrics shows
	Ready() error                                                                   // why this node shall get no traffic
	// Events lists what came after the given sequence number, oldest first,
	// and a channel that is closed when there is more.
	Events(after uint64) ([]Event, <-chan struct{})

	Document(ctx context.Context, generation string) (Document, error) // "": the running one
	History(context.Context) ([]Generation, error)
	Diff(ctx context.Context, text []byte, file string) (Applied, error)
	Apply(ctx context.Context, text []byte, file string, a Ask) (Applied, error)
	Confirm(context.Context, Ask) (Applied, error)
	Adopt(context.Context, Ask) (Applied, error)
	Release(context.Context, ReleaseOrder, Ask) (Applied, error)
	Rollback(context.Context, RollbackOrder, Ask) (Applied, error)
	Reload(context.Context, Ask) (Applied, error)
	EditBackend(context.Context, BackendEdit, Ask) (Applied, error)

	OrderBackend(context.Context, BackendOrder, Ask) error
	OrderListener(context.Context, ListenerOrder, Ask) error
	OrderWorker(context.Context, WorkerOrder, Ask) error
	OrderNode(context.Context, NodeOrder, Ask) error
	Leave(context.Context, LeaveOrder, Ask) error // drains, says good-bye, exits; does not wait
	Upgrade(context.Context, UpgradeOrder, Ask) error

	Keys(context.Context) ([]KeyRing, error)
	ChangeKey(context.Context, KeyOrder, Ask) error
}

// Ask is how a change is asked for: who, and on which conditions.
type Ask struct {
	By      string        // who, for the history and the log; the server knows
	Match   string        // If-Match: refuse unless this generation runs; "": any
	DryRun  bool          // say what would change, no more
	Confirm time.Duration // take it back unless it is confirmed in time; 0: it stays
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
	audit   *Audit // nil: changes are logged only
}

// Options is what a server is made of besides its Control.
type Options struct {
	Log   *slog.Logger // nil: slog.Default()
	Audit *Audit       // nil: changes are logged only
}

func newAPI(c Control, o Options) *api {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &api{c, o.Log, o.Audit}
}

// Handler serves the whole API; it belongs on the unix socket only.
func Handler(c Control, o Options) http.Handler {
	a := newAPI(c, o)
	mux := a.mux(func(endpoint) bool { return true })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &Error{Status: http.StatusNotFound, Code: CodeNotFound, Detail: "there is no " + r.Method + " " + r.URL.Path})
	})
	return mux
}

// ReadOnlyHandler serves the part of the API that changes nothing and shows no
// document: what every user of the host may see.
func ReadOnlyHandler(c Control, o Options) http.Handler {
	a := newAPI(c, o)
	mux := a.mux(func(e endpoint) bool { return e.access == anybody })
	mux.HandleFunc("/", refuseChange)
	return mux
}

// mux has the endpoints of the table that are wanted, and what ReadOnly has.
func (a *api) mux(want func(endpoint) bool) *http.ServeMux {
	mux := http.NewServeMux()
	for _, e := range a.endpoints() {
		if want(e) {
			mux.HandleFunc(e.method+" "+e.path, a.serve(e))
		}
	}
	mux.Handle("GET /", ReadOnly(a.control))
	return mux
}

// serve bounds an endpoint, records changes and turns its error into an answer.
func (a *api) serve(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.SetWriteDeadline(deadline()) // an error means a test's recorder, which waits for nobody
		r.Body = http.MaxBytesReader(w, r.Body, maxDocument)
		c := &call{endpoint: e, w: w, r: r}
		err := e.known(r)
		if err == nil {
			err = e.handle(c)
		}
		if e.access == changes {
			a.record(c, err)
		}
		if err != nil {
			writeError(w, err)
		}
	}
}

// call is one request on its way through its endpoint.
type call struct {
	endpoint endpoint
	w        http.ResponseWriter
	r        *http.Request
	about    string // what is to change, for the audit log
	order    any    // how
	led      string // the generation it led to
	dry      bool
}

// record keeps every attempt to change something, with the peer's credentials.
func (a *api) record(c *call, err error) {
	e := Act{Time: time.Now().UTC(), By: peer(c.r), Method: c.r.Method, Path: c.r.URL.RequestURI(), About: c.about, Order: c.order, Generation: c.led, DryRun: c.dry}
	if err != nil {
		e.Refused = problemOf(err).Error()
	}
	attrs := []any{"method", e.Method, "path", e.Path, "by", e.By, "about", e.About}
	if err != nil {
		a.log.Warn("admin change refused", append(attrs, "error", err)...)
	} else {
		a.log.Info("admin change", attrs...)
	}
	if a.audit == nil {
		return
	}
	if err := a.audit.add(e); err != nil {
		a.log.Error("the audit log lacks a line", "err", err)
	}
}
