package app

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
)

// control is a node in the words of the admin API.
type control struct {
	node    *node.Node
	upgrade func(ctx context.Context, binary string, a node.Asked) error // of workers and supervisor
	depart  func()                                                       // makes lbd drain and exit
	keys    *keyring                                                     // nil: no cluster
	packets capturer                                                     // nil: no fast path
}

var _ admin.Control = control{}

func (c control) Status(context.Context) (admin.Status, error) {
	stats := c.node.Stats() // asks the workers
	s := *c.node.Snapshot()
	if s.Serving {
		s.Crew = c.node.Crew()
	}
	return statusOf(&s, stats, c.node.Reports(), c.node.Packets()), nil
}

func (c control) Backends(context.Context) ([]admin.Backend, error) {
	return backendsOf(c.node.Snapshot(), c.node.Stats(), c.node.Reports()), nil
}

func (c control) Samples() []lb.Sample { return c.node.Samples() }

// Certificates lists what this node shows, in the document's order.
func (c control) Certificates(context.Context) ([]admin.Certificate, error) {
	all := []admin.Certificate{}
	for _, x := range c.node.Snapshot().Certificates() {
		names := x.Names
		if names == nil {
			names = []string{}
		}
		all = append(all, admin.Certificate{Listener: x.Listener, Pool: x.Pool, Default: x.Default, Subject: x.Subject, Names: names,
			Issuer: x.Issuer, Serial: x.Serial, Key: x.Key, Begins: x.NotBefore, Ends: x.NotAfter, File: x.File})
	}
	return all, nil
}

// Refused lists the last malformed requests.
func (c control) Refused(context.Context) ([]admin.Refusal, error) {
	all := []admin.Refusal{}
	for _, r := range c.node.Refused() {
		all = append(all, admin.Refusal{Time: r.Time, Listener: r.Listener, Client: r.Client.String(), Version: r.Version,
			Status: r.Status, Reason: string(r.Reason), Error: r.Error, Head: strconv.Quote(string(r.Head))})
	}
	return all, nil
}

// Crashes lists the last workers that ended by themselves.
func (c control) Crashes(context.Context) ([]lb.Crash, error) {
	return append([]lb.Crash{}, c.node.Crashes()...), nil
}

// Ready says why whoever sends traffic here should send it elsewhere.
func (c control) Ready() error { return readiness(c.node.Snapshot()) }

func readiness(s *node.Snapshot) error {
	switch {
	case !s.Serving:
		return errors.New("the first configuration is not applied yet")
	case s.Drain.Draining:
		return errors.New("draining")
	case s.Ready && s.Weight == 0 && len(s.Overlay.Listeners) > 0 && len(s.Sockets) == 0:
		return errors.New("every listener drains")
	case !s.Ready:
		return errors.New("no slot takes new connections")
	}
	return nil
}

func (c control) Events(after uint64) ([]admin.Event, <-chan struct{}) {
	list, more := c.node.Events(after)
	out := make([]admin.Event, len(list))
	for i, e := range list {
		out[i] = admin.Event(e)
	}
	return out, more
}

func (c control) Document(_ context.Context, generation string) (admin.Document, error) {
	text, g, err := c.node.Document(generation)
	return admin.Document{Generation: g.String(), Text: text}, problem(err)
}

func (c control) History(context.Context) ([]admin.Generation, error) {
	past := c.node.History()
	out := make([]admin.Generation, len(past))
	for i, p := range past {
		out[i] = admin.Generation{
			Generation: p.Generation.String(), Time: p.Time, By: p.By, Action: p.Action,
			Owner: string(p.Owner), Bytes: p.Bytes, Current: p.Current, Trouble: p.Trouble,
		}
		if !p.Lost.IsZero() {
			out[i].Lost = p.Lost.String()
		}
	}
	return out, nil
}

func (c control) Diff(ctx context.Context, text []byte, file string) (admin.Applied, error) {
	changes, err := c.node.Diff(ctx, text, file)
	return applied(node.Applied{Generation: c.node.Snapshot().Generation, Changed: len(changes) > 0, DryRun: true, Changes: changes}, err)
}

func (c control) Apply(ctx context.Context, text []byte, file string, a admin.Ask) (admin.Applied, error) {
	return applied(c.node.Apply(ctx, text, file, asked(a)))
}

func (c control) Confirm(ctx context.Context, a admin.Ask) (admin.Applied, error) {
	return applied(c.node.Confirm(ctx, asked(a)))
}

func (c control) Adopt(ctx context.Context, a admin.Ask) (admin.Applied, error) {
	return applied(c.node.Adopt(ctx, asked(a)))
}

func (c control) Release(ctx context.Context, o admin.ReleaseOrder, a admin.Ask) (admin.Applied, error) {
	return applied(c.node.Release(ctx, o.Discard, asked(a)))
}

func (c control) Rollback(ctx context.Context, o admin.RollbackOrder, a admin.Ask) (admin.Applied, error) {
	return applied(c.node.Rollback(ctx, o.Generation, asked(a)))
}

func (c control) Reload(ctx context.Context, a admin.Ask) (admin.Applied, error) {
	return applied(c.node.Reload(ctx, asked(a)))
}

func (c control) EditBackend(ctx context.Context, e admin.BackendEdit, a admin.Ask) (admin.Applied, error) {
	return applied(c.node.EditBackend(ctx, node.BackendEdit{
		Action: e.Action, ID: lb.BackendID{Pool: e.Pool, Address: e.Address}, Weight: e.Weight, Backup: e.Backup,
	}, asked(a)))
}

func (c control) OrderBackend(ctx context.Context, o admin.BackendOrder, a admin.Ask) error {
	var id lb.BackendID
	if err := id.UnmarshalText([]byte(o.ID)); err != nil {
		return err
	}
	return problem(c.node.OrderBackend(ctx, node.BackendOrder{
		ID: id, Drain: o.Drain, Disable: o.Disable, Weight: o.Weight, ClearWeight: o.ClearWeight,
	}, asked(a)))
}

func (c control) OrderListener(ctx context.Context, o admin.ListenerOrder, a admin.Ask) error {
	return problem(c.node.OrderListener(ctx, o.Name, o.Drain, asked(a)))
}

func (c control) OrderWorker(ctx context.Context, o admin.WorkerOrder, a admin.Ask) error {
	return problem(c.node.OrderWorker(ctx, o.Name, o.Drain, asked(a)))
}

func (c control) OrderNode(ctx context.Context, o admin.NodeOrder, a admin.Ask) error {
	return problem(c.node.OrderNode(ctx, o.Name, o.Drain, asked(a)))
}

func (c control) Leave(_ context.Context, o admin.LeaveOrder, a admin.Ask) error {
	if err := c.node.MayLeave(o.Name, asked(a)); err != nil {
		return problem(err)
	}
	c.depart()
	return nil
}

func (c control) Upgrade(ctx context.Context, o admin.UpgradeOrder, a admin.Ask) error {
	return problem(c.upgrade(ctx, o.Binary, asked(a)))
}

func asked(a admin.Ask) node.Asked {
	return node.Asked{By: a.By, Match: a.Match, Dry: a.DryRun, Confirm: a.Confirm}
}

func applied(a node.Applied, err error) (admin.Applied, error) {
	if err != nil {
		return admin.Applied{}, problem(err)
	}
	out := admin.Applied{Generation: a.Generation.String(), Changed: a.Changed, DryRun: a.DryRun, Notes: a.Notes, Trial: trialOf(a.Trial), Workers: builtOf(a.Workers)}
	for _, d := range a.Changes {
		out.Changes = append(out.Changes, admin.Change{Path: d.Path, Text: d.String(), Breaks: d.Breaks})
	}
	for _, v := range a.Nodes {
		out.Nodes = append(out.Nodes, admin.Verdict(v))
	}
	return out, nil
}

func trialOf(t *node.Trial) *admin.Trial {
	if t == nil {
		return nil
	}
	return &admin.Trial{Back: t.Back.String(), Until: t.Until, By: t.By}
}

func builtOf(all []node.Built) []admin.Built {
	var out []admin.Built
	for _, b := range all {
		one := admin.Built{Worker: b.Worker, PID: b.PID, OK: b.Err == nil, Took: b.Took}
		if b.Err != nil {
			one.Error = b.Err.Error()
		}
		out = append(out, one)
	}
	return out
}

// problems says how each kind of error is answered.
var problems = map[node.Kind]struct {
	status int
	code   string
}{
	node.Internal:    {http.StatusInternalServerError, admin.CodeInternal},
	node.OwnedByFile: {http.StatusConflict, admin.CodeOwnedByFile},
	node.NotFound:    {http.StatusNotFound, admin.CodeNotFound},
	node.Conflict:    {http.StatusPreconditionFailed, admin.CodeConflict},
	node.OtherNode:   {http.StatusConflict, admin.CodeOtherNode},
	node.Busy:        {http.StatusServiceUnavailable, admin.CodeBusy},
	node.Unwritable:  {http.StatusInsufficientStorage, admin.CodeState},
	node.Refused:     {http.StatusUnprocessableEntity, admin.CodeRefused},
	node.Unbuilt:     {http.StatusUnprocessableEntity, admin.CodeWorkers},
	node.NotReady:    {http.StatusBadGateway, admin.CodeUpgrade},
	node.Invalid:     {http.StatusBadRequest, admin.CodeRequest},
}

// problem is a node's error in the words of the admin API.
func problem(err error) error {
	var e *node.Error
	if !errors.As(err, &e) {
		return err
	}
	as := problems[e.Kind]
	out := &admin.Error{Status: as.status, Code: as.code, Detail: e.Text, Hint: e.Hint, Workers: builtOf(e.Workers)}
	var errs lb.Errors
	if errors.As(err, &errs) {
		out.Errors = errs
	}
	return out
}
