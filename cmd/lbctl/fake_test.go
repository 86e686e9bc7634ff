package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// fakeNode answers as a node would, from what a script told it.
type fakeNode struct {
	mu       sync.Mutex // guards the fields below
	status   admin.Status
	backends []admin.Backend
	text     string
	counter  int
	drains   int // questions until a draining thing is empty
	events   []admin.Event
	more     chan struct{}
	refuse   *admin.Error
}

var long = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newFakeNode(owner string) *fakeNode {
	n := &fakeNode{counter: 42, more: make(chan struct{}), text: "pools: {}\n"}
	connections := 12
	n.status = admin.Status{
		Node: "edge-1", Version: "1.2.3", Started: long, State: "serving", Since: long, Owner: owner, File: "/etc/lbd/lbd.yaml",
		Fastpath:    admin.Fastpath{Wanted: "auto", Mode: "native", Interfaces: map[string]string{"eth0": "native"}, Epoch: "7@edge-2", View: 0xbeef},
		Connections: 12, Requests: 3,
		Listeners: []admin.Listener{{Name: "web", Bind: "192.0.2.10:80", Protocol: "http", Scope: "vip", Slots: 4, Live: 4, Connections: 12, Requests: 48123}},
		Routes:    []admin.Route{{Index: 1, Line: 8, Match: "host shop.example, path /api/", Filters: []string{"headers"}, Target: "pool app"}},
		Pools:     []admin.Pool{{Name: "app", Protocol: "http1", Balance: "least_request", Check: "http /healthz every 2s", Backends: 2, Usable: 2, Active: 3}},
		Workers:   []admin.Worker{{Name: "1.0", PID: 4711, State: "ready", Slots: []int{0, 1}, Generation: 42, Version: "1.2.3", Since: long}},
		Nodes: []admin.Node{
			{Name: "edge-1", Self: true, State: "serving", Ready: true, Listed: true, Weight: 4, View: 0xbeef, InSync: true, Connections: &connections, Since: long},
			{Name: "edge-2", State: "serving", Ready: true, Listed: true, Weight: 4, View: 0xbeef, InSync: true, Address: "10.0.0.12", Since: long},
		},
		Problems: []admin.Problem{}, Notes: []string{"workers run as uid 65534: there is no user lbd"},
	}
	n.backends = []admin.Backend{
		{ID: "app/10.0.1.1:8080", Pool: "app", Address: "10.0.1.1:8080", State: "up", Health: "up", Weight: 1, Configured: 1, Active: 3, Connections: 9, Requests: 40000, Check: "status 200", Since: long, Took: 1500 * time.Microsecond},
		{ID: "app/10.0.1.2:8080", Pool: "app", Address: "10.0.1.2:8080", State: "up", Health: "up", Weight: 5, Configured: 2, Requests: 8123, Failures: 2, Check: "status 200", Since: long},
	}
	n.events = []admin.Event{{Seq: 1, Event: lb.Event{Time: long, Kind: "backend.down", Subject: "app/10.0.1.1:8080", Detail: "connect: connection refused"}}}
	return n
}

func (n *fakeNode) generation() string { return fmt.Sprintf("%d@edge-1", n.counter) }

func (n *fakeNode) Status(context.Context) (admin.Status, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tick()
	n.status.Generation = n.generation()
	return n.status, nil
}

// tick moves drains on: each question finds less in progress.
func (n *fakeNode) tick() {
	if n.drains > 0 {
		n.drains--
	}
	if n.drains == 0 && n.status.State == "draining" {
		n.status.State, n.status.Connections = "empty", 0
	}
	for i, b := range n.backends {
		if b.Drain && n.drains == 0 {
			n.backends[i].State, n.backends[i].Active = "drained", 0
		}
	}
}

func (n *fakeNode) Backends(context.Context) ([]admin.Backend, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tick()
	return slices.Clone(n.backends), nil
}

func (n *fakeNode) Samples() []lb.Sample { return nil }
func (n *fakeNode) Ready() error         { return nil }

func (n *fakeNode) Events(after uint64) ([]admin.Event, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.events[min(after, uint64(len(n.events))):], n.more
}

func (n *fakeNode) Explain(_ context.Context, q admin.Question) (admin.Explanation, error) {
	if q.URL == "" {
		return admin.Explanation{Listener: "web", Bind: "192.0.2.10:80", Scope: "vip", Route: -1, Verdict: "a connection to listener web",
			Packet: &admin.PacketWay{Tuple: q.Tuple, VIP: "192.0.2.10:80/tcp", Row: 4711, Chain: []string{"edge-2", "edge-1"}, Slot: -1, Why: []string{"edge-2 owns the row"}}}, nil
	}
	return admin.Explanation{
		Listener: "web", Bind: "192.0.2.10:80", Scope: "vip", Route: 1, Filters: []string{"headers"}, Target: "pool app", Pool: "app", Balance: "least_request",
		Routes: []admin.RouteVerdict{
			{Index: 1, Line: 8, Match: "method " + q.Method, Matches: true, Why: "the first that matches"},
			{Index: 2, Line: 12, Match: "everything", Why: "not asked: an earlier route matches"},
		},
		Backends: []admin.BackendChoice{{ID: "app/10.0.1.1:8080", Weight: 1, Why: "down: connect: connection refused"}, {ID: "app/10.0.1.2:8080", Eligible: true, Weight: 5, Why: "up"}},
		Verdict:  "route 1 (line 8): pool app, least_request over 1 backend",
	}, nil
}

func (n *fakeNode) Document(_ context.Context, g string) (admin.Document, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g != "" && g != n.generation() {
		return admin.Document{}, &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound,
			Detail: fmt.Sprintf("there is no generation %q in the history", g), Hint: "`lbctl config history` lists them"}
	}
	return admin.Document{Generation: n.generation(), Text: n.text}, nil
}

func (n *fakeNode) History(context.Context) ([]admin.Generation, error) {
	return []admin.Generation{
		{Generation: "42@edge-1", Time: long, By: "uid 0 (pid 1)", Action: "reload", Owner: "file", Current: true, Bytes: 321},
		{Generation: "41@edge-1", Time: long, By: "lbd", Action: "start", Owner: "file", Bytes: 300},
	}, nil
}

// change is any edit: refused as the script said, as the owner demands, or done.
func (n *fakeNode) change(match string, dry bool) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.refuse != nil:
		return admin.Applied{}, n.refuse
	case n.status.Owner == "file":
		return admin.Applied{}, &admin.Error{Status: http.StatusConflict, Code: admin.CodeOwnedByFile,
			Detail: "objects are owned by /etc/lbd/lbd.yaml; edit it and reload, or `lbctl config adopt`"}
	case match != "" && match != n.generation():
		return admin.Applied{}, &admin.Error{Status: http.StatusPreconditionFailed, Code: admin.CodeConflict,
			Detail: "the edit began with generation " + match + "; " + n.generation() + " runs", Hint: "look at it with `lbctl config show` and edit again"}
	}
	if !dry {
		n.counter++
	}
	return admin.Applied{Generation: n.generation(), Changed: true, DryRun: dry, Changes: []admin.Change{
		{Path: "pools.app.backends.10.0.1.1:8080", Text: "removed pools.app.backends.10.0.1.1:8080", Breaks: "removes a backend with 3 requests in progress"}}}, nil
}

func (n *fakeNode) Diff(context.Context, []byte, string) (admin.Applied, error) {
	return n.change("", true)
}

func (n *fakeNode) Apply(_ context.Context, a admin.Apply, _ string) (admin.Applied, error) {
	if strings.Contains(string(a.Text), "bad") {
		e := &lb.Error{Code: "LB1103", File: a.File, Line: 7, Column: 11, Message: "route uses pool \"ap\", which does not exist", Excerpt: "    pool: ap", Width: 2, Hint: `did you mean "app"?`}
		return admin.Applied{}, &admin.Error{Status: http.StatusUnprocessableEntity, Code: admin.CodeRefused, Errors: []*lb.Error{e},
			Detail: e.Error() + "\n1 error. The running configuration (generation 42) is unchanged."}
	}
	return n.change(a.Match, a.DryRun)
}

func (n *fakeNode) Adopt(context.Context, string) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Owner = "document"
	n.counter++
	return admin.Applied{Generation: n.generation(), Changed: true}, nil
}

func (n *fakeNode) Rollback(_ context.Context, g, _ string) (admin.Applied, error) {
	return n.change("", false)
}

func (n *fakeNode) Reload(context.Context, string) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return admin.Applied{Generation: n.generation(), Notes: []string{"fastpath: these settings take effect when lbd restarts"}}, nil
}

func (n *fakeNode) EditBackend(_ context.Context, e admin.BackendEdit, _ string) (admin.Applied, error) {
	return n.change(e.Match, false)
}

func (n *fakeNode) OrderBackend(_ context.Context, o admin.BackendOrder, _ string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, b := range n.backends {
		if b.ID != o.ID {
			continue
		}
		if o.Drain != nil {
			n.backends[i].Drain, n.backends[i].State = *o.Drain, map[bool]string{true: "draining", false: "up"}[*o.Drain]
		}
		return nil
	}
	return &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Detail: "there is no backend " + o.ID,
		Hint: "`lbctl backend list` shows them; a backend is named POOL/ADDRESS"}
}

func (n *fakeNode) OrderNode(_ context.Context, o admin.NodeOrder, _ string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o.Name != "" && o.Name != "edge-1" {
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeOtherNode, Detail: "this is edge-1; only edge-2 itself can drain", Hint: "run `lbctl node drain` on edge-2 (10.0.0.12)"}
	}
	n.status.State = map[bool]string{true: "draining", false: "serving"}[o.Drain]
	return nil
}

func (n *fakeNode) Upgrade(_ context.Context, o admin.UpgradeOrder, _ string) error {
	if strings.Contains(o.Binary, "broken") {
		return &admin.Error{Status: http.StatusBadGateway, Code: admin.CodeUpgrade, Detail: "the upgrade failed and the old workers serve as before: the new crew exited with status 1"}
	}
	return nil
}
