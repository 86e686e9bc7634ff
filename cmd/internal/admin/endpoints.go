package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// access is who may use an endpoint.
type access int

const (
	anybody  access = iota // reads what every user of the host may see
	operator               // reads documents, or makes the node work hard
	changes                // changes something
)

// endpoint is one method of one path: what it takes and gives, for the server
// and for its description.
type endpoint struct {
	method, path string
	access       access
	summary      string
	query        []param
	in           any // the zero value of the body's type; nil: none; document: text
	out          any // of the answer's type; nil: {}; document: text
	handle       func(*call) error
}

// param is a query parameter. Any other one is refused: who misspells dry_run
// must not apply.
type param struct {
	name, kind, text string // kind: string | boolean | integer | duration
}

// document stands for a body of YAML.
type document struct{}

// How a change may be asked for.
var (
	dryRun  = param{"dry_run", "boolean", "say what would change, no more"}
	confirm = param{"confirm", "duration", "take it back unless it is confirmed within this time, such as 60s"}
	file    = param{"file", "string", "the name that errors show"}
)

func (a *api) endpoints() []endpoint {
	c := a.control
	return []endpoint{
		{"GET", "/v1/status", anybody, "What is exposed, where traffic goes, what is healthy, what is broken", nil, nil, Status{}, read(c.Status)},
		{"GET", "/v1/listeners", anybody, "The addresses the workers serve", nil, nil, []Listener{}, part(c, func(s Status) []Listener { return s.Listeners })},
		{"GET", "/v1/routes", anybody, "The routes in the order of matching", nil, nil, []Route{}, part(c, func(s Status) []Route { return s.Routes })},
		{"GET", "/v1/pools", anybody, "The pools", nil, nil, []Pool{}, part(c, func(s Status) []Pool { return s.Pools })},
		{"GET", "/v1/services", anybody, "The L4 services", nil, nil, []Service{}, part(c, func(s Status) []Service { return s.Services })},
		{"GET", "/v1/nodes", anybody, "The nodes as this one sees them", nil, nil, []Node{}, part(c, func(s Status) []Node { return s.Nodes })},
		{"GET", "/v1/backends", anybody, "Every backend of every pool", nil, nil, []Backend{}, read(c.Backends)},
		{"GET", "/v1/backends/story", anybody, "Why a backend is in the state it is in", []param{{"id", "string", "POOL/ADDRESS"}}, nil, Story{}, a.story},
		{"GET", "/v1/traffic", anybody, "What is counted per listener and backend, cumulative", nil, nil, Traffic{}, read(c.Traffic)},
		{"GET", "/v1/certificates", anybody, "The certificates that are shown to clients and backends, with their names and ends", nil, nil, []Certificate{}, read(c.Certificates)},
		{"GET", "/v1/crashes", operator, "The last workers that ended by themselves: how, their last words and requests", nil, nil, []lb.Crash{}, read(c.Crashes)},
		{"GET", "/v1/refused", operator, "The last requests that were malformed, newest first, and how they began", nil, nil, []Refusal{}, read(c.Refused)},
		{"GET", "/v1/version", anybody, "What runs", nil, nil, Version{}, part(c, func(s Status) Version { return thisVersion(s.Version) })},
		{"GET", "/v1/events", anybody, "What happened after a number; with Accept: text/event-stream as it happens", []param{{"after", "integer", "the number of the last event that is known"}}, nil, []Event{}, a.events},
		{"POST", "/v1/explain", anybody, "What would happen to a flow or a request, and why not something else; sends nothing", nil, Question{}, Explanation{}, order(c.Explain)},
		{"POST", "/v1/capture", operator, "Packets of the fast path as they arrive, with their verdicts, as pcapng; ends by itself", nil, CaptureOrder{}, pcapng{}, a.capture},
		{"GET", "/v1/openapi.json", anybody, "This description", nil, nil, map[string]any{}, a.openAPI},

		{"GET", "/v1/config", operator, "The text that holds the objects, now or earlier; its ETag is the generation", []param{{"generation", "string", "such as 42@edge-1"}}, nil, document{}, a.document},
		{"GET", "/v1/config/history", anybody, "The generations that are kept, newest first", nil, nil, []Generation{}, read(c.History)},
		{"POST", "/v1/config/diff", operator, "What a text would change, and what that breaks", []param{file}, document{}, Applied{}, a.diff},

		{"PUT", "/v1/config", changes, "Replace the objects of the document", []param{file, dryRun, confirm}, document{}, Applied{}, a.apply},
		{"POST", "/v1/config/confirm", changes, "Keep a change that is on trial", []param{dryRun}, nil, Applied{}, plain(c.Confirm)},
		{"POST", "/v1/config/adopt", changes, "Move the objects from the file to the document", []param{dryRun}, nil, Applied{}, plain(c.Adopt)},
		{"POST", "/v1/config/release", changes, "Give the objects back to the file", []param{dryRun}, ReleaseOrder{}, Applied{}, change(c.Release, func(ReleaseOrder) string { return "config" })},
		{"POST", "/v1/config/reload", changes, "Read the file again, as SIGHUP does", []param{dryRun}, nil, Applied{}, plain(c.Reload)},
		{"POST", "/v1/config/rollback", changes, "Make an earlier generation's objects the newest", []param{dryRun, confirm}, RollbackOrder{}, Applied{}, change(c.Rollback, func(RollbackOrder) string { return "config" })},
		{"POST", "/v1/backends", changes, "Change one backend in the document", []param{dryRun, confirm}, BackendEdit{}, Applied{}, change(c.EditBackend, func(e BackendEdit) string { return "backend " + e.Pool + "/" + e.Address })},

		{"POST", "/v1/backends/order", changes, "Drain, disable or weigh a backend beside the document", nil, BackendOrder{}, nil, ordered(c.OrderBackend, func(o BackendOrder) string { return "backend " + o.ID })},
		{"POST", "/v1/listeners/order", changes, "Drain a listener of this node, or take that back", nil, ListenerOrder{}, nil, ordered(c.OrderListener, func(o ListenerOrder) string { return "listener " + o.Name })},
		{"POST", "/v1/workers/order", changes, "Drain a worker of this node, or take that back", nil, WorkerOrder{}, nil, ordered(c.OrderWorker, func(o WorkerOrder) string { return "worker " + o.Name })},
		{"POST", "/v1/nodes/order", changes, "Drain this node, or take that back", nil, NodeOrder{}, nil, ordered(c.OrderNode, func(o NodeOrder) string { return strings.TrimSpace("node " + o.Name) })},
		{"POST", "/v1/nodes/leave", changes, "Drain this node, say good-bye to the others, exit", nil, LeaveOrder{}, nil, ordered(c.Leave, func(o LeaveOrder) string { return strings.TrimSpace("node " + o.Name) })},
		{"GET", "/v1/cluster/keys", operator, "Which keys of the cluster the nodes have, by name", nil, nil, []KeyRing{}, read(c.Keys)},
		{"POST", "/v1/cluster/keys", changes, "Add, use or remove a key of the cluster on this node", nil, KeyOrder{}, nil, ordered(c.ChangeKey, func(o KeyOrder) string { return "cluster key " + o.Action })},
		{"POST", "/v1/upgrade", changes, "Replace the workers by those of another binary", nil, UpgradeOrder{}, nil, ordered(c.Upgrade, func(UpgradeOrder) string { return "workers" })},
	}
}

// known refuses parameters that the endpoint does not have.
func (e endpoint) known(r *http.Request) error {
	for name, values := range r.URL.Query() {
		i := slices.IndexFunc(e.query, func(p param) bool { return p.name == name })
		switch {
		case i < 0:
			return badRequest("%s %s has no parameter %q", e.method, e.path, name)
		case len(values) != 1:
			return badRequest("the parameter %s is there %d times", name, len(values))
		}
		if err := e.query[i].check(values[0]); err != nil {
			return err
		}
	}
	return nil
}

func (p param) check(text string) error {
	var err error
	switch p.kind {
	case "boolean":
		if text != "true" && text != "false" {
			err = fmt.Errorf("say true or false")
		}
	case "integer":
		_, err = strconv.ParseUint(text, 10, 64)
	case "duration":
		_, err = time.ParseDuration(text)
	}
	if err != nil {
		return badRequest("%q is no value of %s", text, p.name)
	}
	return nil
}

// ask is how a change is asked for: its parameters are checked already.
func (c *call) ask() (Ask, error) {
	q := c.r.URL.Query()
	a := Ask{By: peer(c.r), DryRun: q.Get("dry_run") == "true"}
	c.dry = a.DryRun
	if text := q.Get("confirm"); text != "" {
		a.Confirm, _ = time.ParseDuration(text)
	}
	var err error
	a.Match, err = ifMatch(c.r)
	return a, err
}

// read serves what is there.
func read[T any](get func(context.Context) (T, error)) func(*call) error {
	return func(c *call) error {
		v, err := get(c.r.Context())
		if err != nil {
			return err
		}
		return writeJSON(c.w, v)
	}
}

// part serves one part of the status.
func part[T any](from Control, of func(Status) T) func(*call) error {
	return read(func(ctx context.Context) (T, error) {
		s, err := from.Status(ctx)
		return of(s), err
	})
}

// order serves a question in JSON that has an answer.
func order[In, Out any](do func(context.Context, In) (Out, error)) func(*call) error {
	return func(c *call) error {
		var in In
		if err := readJSON(c.r, &in); err != nil {
			return err
		}
		out, err := do(c.r.Context(), in)
		if err != nil {
			return err
		}
		return writeJSON(c.w, out)
	}
}

// asked reads an order in JSON and how it is asked for.
func asked[In any](c *call, about func(In) string) (in In, a Ask, err error) {
	if err := readJSON(c.r, &in); err != nil {
		return in, a, err
	}
	c.about, c.order = about(in), in
	a, err = c.ask()
	return in, a, err
}

// ordered serves an order without an answer.
func ordered[In any](do func(context.Context, In, Ask) error, about func(In) string) func(*call) error {
	return func(c *call) error {
		in, a, err := asked(c, about)
		if err != nil {
			return err
		}
		if err := do(c.r.Context(), in, a); err != nil {
			return err
		}
		return writeJSON(c.w, struct{}{})
	}
}

// change serves a change of the configuration.
func change[In any](do func(context.Context, In, Ask) (Applied, error), about func(In) string) func(*call) error {
	return func(c *call) error {
		in, a, err := asked(c, about)
		if err != nil {
			return err
		}
		done, err := do(c.r.Context(), in, a)
		return c.answer(done, err)
	}
}

// plain serves a change of the configuration that needs no more to be said.
func plain(do func(context.Context, Ask) (Applied, error)) func(*call) error {
	return func(c *call) error {
		c.about = "config"
		if err := c.empty(); err != nil {
			return err
		}
		a, err := c.ask()
		if err != nil {
			return err
		}
		done, err := do(c.r.Context(), a)
		return c.answer(done, err)
	}
}

// answer writes the verdict on a change with the generation it led to.
func (c *call) answer(done Applied, err error) error {
	if err != nil {
		return err
	}
	c.led = done.Generation
	c.w.Header().Set("ETag", `"`+done.Generation+`"`)
	return writeJSON(c.w, done)
}

// story adds what operators did, which the node does not know.
func (a *api) story(c *call) error {
	s, err := a.control.Story(c.r.Context(), c.r.URL.Query().Get("id"))
	if err != nil {
		return err
	}
	if a.audit != nil {
		s.Acts, err = a.audit.About("backend "+s.Backend.ID, maxActs)
	}
	if err != nil {
		s.Acts = nil // what the rest says is worth more than none
		a.log.Error("read the audit log", "err", err)
	}
	if s.Acts == nil {
		s.Acts = []Act{}
	}
	return writeJSON(c.w, s)
}

// maxActs bounds how many acts a story tells.
const maxActs = 20
