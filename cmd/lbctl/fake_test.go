package main

import (
	"context"
	"fmt"
	"io"
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
	looks    int    // at the traffic
	leave    func() // what an order to leave does
	end      func() // ends the server
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
		Services:  []admin.Service{{Name: "dns", Bind: "192.0.2.10:53", Protocol: "udp", Forward: "ipip", Pool: "app", Backends: 2, Usable: 2, Packets: 12, Bytes: 1200, Members: []admin.ServiceMember{{Address: "10.0.1.1:53", Share: 0.5, Packets: 12, Bytes: 1200}}}},
		Sources:   []admin.Source{{Name: "dns app.internal:8080", Pools: []string{"app"}, Backends: 1, Answered: long}},
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
	s := n.status // what is handed out does not change
	s.Listeners, s.Workers, s.Problems = slices.Clone(s.Listeners), slices.Clone(s.Workers), slices.Clone(s.Problems)
	return s, nil
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

func (n *fakeNode) Capture(_ context.Context, o admin.CaptureOrder, to io.Writer) (admin.CaptureDone, error) {
	if strings.Contains(o.Flow, "x") {
		return admin.CaptureDone{}, &admin.Error{Status: 400, Code: admin.CodeRequest, Detail: o.Flow + " is not ADDRESS:PORT"}
	}
	_, err := fmt.Fprintf(to, "%+v", o)
	return admin.CaptureDone{Packets: 2}, err
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
func (n *fakeNode) change(a admin.Ask) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.refuse != nil:
		return admin.Applied{}, n.refuse
	case n.status.Owner == "file":
		return admin.Applied{}, &admin.Error{Status: http.StatusConflict, Code: admin.CodeOwnedByFile,
			Detail: "objects are owned by /etc/lbd/lbd.yaml; edit it and reload, or `lbctl config adopt`"}
	case a.Match != "" && a.Match != n.generation():
		return admin.Applied{}, &admin.Error{Status: http.StatusPreconditionFailed, Code: admin.CodeConflict,
			Detail: "the edit began with generation " + a.Match + "; " + n.generation() + " runs", Hint: "look at it with `lbctl config show` and edit again"}
	}
	back := n.generation()
	if !a.DryRun {
		n.counter++
	}
	done := admin.Applied{Generation: n.generation(), Changed: true, DryRun: a.DryRun, Changes: []admin.Change{
		{Path: "pools.app.backends.10.0.1.1:8080", Text: "removed pools.app.backends.10.0.1.1:8080", Breaks: "removes a backend with 3 requests in progress"}}}
	if !a.DryRun {
		done.Workers = []admin.Built{{Worker: "1.0", PID: 4711, OK: true, Took: 12 * time.Millisecond}}
	}
	if a.Confirm > 0 {
		done.Trial = &admin.Trial{Back: back, Until: now().Add(a.Confirm), By: "uid 0 (pid 1)"}
		n.status.Trial = done.Trial
	}
	return done, nil
}

func (n *fakeNode) Diff(context.Context, []byte, string) (admin.Applied, error) {
	return n.change(admin.Ask{DryRun: true})
}

func (n *fakeNode) Confirm(context.Context, admin.Ask) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.status.Trial == nil {
		return admin.Applied{}, &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Detail: "no change waits to be confirmed; generation " + n.generation() + " stays"}
	}
	n.status.Trial = nil
	return admin.Applied{Generation: n.generation()}, nil
}

func (n *fakeNode) Release(_ context.Context, o admin.ReleaseOrder, a admin.Ask) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !o.Discard {
		return admin.Applied{}, &admin.Error{Status: http.StatusPreconditionFailed, Code: admin.CodeConflict,
			Detail: "what /etc/lbd/lbd.yaml says is not what runs (1 difference): added pools.spare",
			Hint:   "`lbctl config show` is what runs: put it into /etc/lbd/lbd.yaml; or --discard it"}
	}
	n.status.Owner = "file"
	n.counter++
	return admin.Applied{Generation: n.generation(), Changed: true}, nil
}

func (n *fakeNode) Story(_ context.Context, id string) (admin.Story, error) {
	for _, b := range n.backends {
		if b.ID == id {
			return fakeStory(b), nil
		}
	}
	return admin.Story{}, noBackend(id)
}

func fakeStory(b admin.Backend) admin.Story {
	b.State, b.Health = "draining", "down"
	return admin.Story{
		Backend: b, Verdict: "it gets no requests: drained by an operator, 3 in progress",
		Why: []string{"the document lists it, with weight 1", "its check (http /healthz every 2s) failed the last 3 times: connect: connection refused; down since 2026-01-02T03:04:05Z",
			"an operator drains it: 3 in progress may finish"},
		Checks: []admin.Check{{Time: long, Took: 1500 * time.Microsecond, Detail: "connect: connection refused"}, {Time: long, OK: true, Took: 2 * time.Second, Detail: "status 200"}},
		Events: []admin.Event{{Seq: 1, Event: lb.Event{Time: long, Kind: "backend.down", Subject: b.ID, Detail: "connect: connection refused"}}},
		Acts: []admin.Act{
			{Time: long, By: "uid 0 (pid 4711)", Method: "POST", Path: "/v1/backends/order", About: "backend " + b.ID, Order: map[string]any{"id": b.ID, "drain": true}},
			{Time: long, By: "uid 1000 (pid 99)", Method: "POST", Path: "/v1/backends", About: "backend " + b.ID, Order: map[string]any{"action": "set", "weight": 3}, Refused: "LB5001 objects are owned by /etc/lbd/lbd.yaml"},
		},
	}
}

func (n *fakeNode) Traffic(context.Context) (admin.Traffic, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.looks++
	t := admin.Traffic{Time: long.Add(time.Duration(n.looks) * time.Second), Node: "edge-1", State: "serving", Packets: []admin.Packets{}}
	k := uint64(n.looks)
	t.Listeners = []admin.Flow{{Name: "web", Connections: 12, Requests: 1000 * float64(k), Errors: float64(k), BytesIn: 5e4 * float64(k), BytesOut: 2e6 * float64(k),
		Latency: &admin.Latency{Count: 1000 * k, Sum: float64(k), Buckets: []lb.Bucket{{Le: .001, N: 500 * k}, {Le: .01, N: 990 * k}, {Le: 1, N: 1000 * k}}}}}
	for i, b := range n.backends {
		t.Backends = append(t.Backends, admin.Flow{Name: b.ID, State: b.State, Connections: b.Connections, Active: b.Active, Requests: float64(400 * k * uint64(i+1))})
	}
	t.Packets = append(t.Packets, admin.Packets{Reason: "to_stack", Verdict: "pass", Count: 12345 * float64(k)})
	return t, nil
}

func (n *fakeNode) Certificates(context.Context) ([]admin.Certificate, error) {
	return []admin.Certificate{
		{Listener: "tls", Default: true, Subject: "CN=shop", Names: []string{"shop.example", "*.shop.example", "192.0.2.10"}, Issuer: "CN=authority", Serial: "1f", Key: "ECDSA P-256",
			Begins: long, Ends: now().Add(40*24*time.Hour + time.Hour), File: "/etc/lbd/shop.pem"},
		{Pool: "app", Subject: "CN=edge", Names: []string{}, Issuer: "CN=authority", Serial: "20", Key: "RSA 2048", Begins: long, Ends: now().Add(-time.Hour), File: "/etc/lbd/edge.pem"},
	}, nil
}

func (n *fakeNode) Crashes(context.Context) ([]lb.Crash, error) {
	return []lb.Crash{{Time: long, Worker: "1.0", PID: 4710, Version: "1.2.3", Started: long, How: "signal: aborted", Said: "SIGABRT: abort\ngoroutine 1 [running]:\nmain.main()\n",
		Flight: lb.Flight{Begun: 7, Ended: 6, Failed: 1, Requests: []lb.FlightRequest{
			{Time: long, Method: "GET", Listener: "web", Route: "route:12", Path: "/cart", UnderWay: true},
			{Time: long, Method: "POST", Listener: "web", Route: "route:12", Path: "/pay", Status: 200, Took: 5 * time.Millisecond}}}}}, nil
}

func (n *fakeNode) Refused(context.Context) ([]admin.Refusal, error) {
	return []admin.Refusal{{Time: long, Listener: "web", Client: "198.51.100.7:40000", Version: "HTTP/1.1", Status: 400, Reason: "bad_framing", Error: "Content-Length twice",
		Head: `"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n"`}}, nil
}

func (n *fakeNode) Apply(_ context.Context, text []byte, file string, a admin.Ask) (admin.Applied, error) {
	if strings.Contains(string(text), "unbuilt") {
		return admin.Applied{}, &admin.Error{Status: http.StatusUnprocessableEntity, Code: admin.CodeWorkers, Detail: "the workers refuse it: worker 1.1 (pid 4712): no memory. The running configuration (generation 42) is unchanged.",
			Workers: []admin.Built{{Worker: "1.0", PID: 4711, OK: true, Took: 12 * time.Millisecond}, {Worker: "1.1", PID: 4712, Took: 9 * time.Millisecond, Error: "no memory"}}}
	}
	if strings.Contains(string(text), "bad") {
		e := &lb.Error{Code: "LB1103", File: file, Line: 7, Column: 11, Message: "route uses pool \"ap\", which does not exist", Excerpt: "    pool: ap", Width: 2, Hint: `did you mean "app"?`}
		return admin.Applied{}, &admin.Error{Status: http.StatusUnprocessableEntity, Code: admin.CodeRefused, Errors: []*lb.Error{e},
			Detail: e.Error() + "\n1 error. The running configuration (generation 42) is unchanged."}
	}
	return n.change(a)
}

func (n *fakeNode) Adopt(context.Context, admin.Ask) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Owner = "document"
	n.counter++
	return admin.Applied{Generation: n.generation(), Changed: true}, nil
}

func (n *fakeNode) Rollback(_ context.Context, _ admin.RollbackOrder, a admin.Ask) (admin.Applied, error) {
	return n.change(a)
}

func (n *fakeNode) Reload(context.Context, admin.Ask) (admin.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return admin.Applied{Generation: n.generation(), Notes: []string{"fastpath: these settings take effect when lbd restarts"}}, nil
}

func (n *fakeNode) EditBackend(_ context.Context, _ admin.BackendEdit, a admin.Ask) (admin.Applied, error) {
	return n.change(a)
}

func (n *fakeNode) OrderBackend(_ context.Context, o admin.BackendOrder, _ admin.Ask) error {
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
	return noBackend(o.ID)
}

func noBackend(id string) error {
	return &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Detail: "there is no backend " + id,
		Hint: "`lbctl backend list` shows them; a backend is named POOL/ADDRESS"}
}

func (n *fakeNode) OrderListener(_ context.Context, o admin.ListenerOrder, _ admin.Ask) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.status.Listeners {
		if l := &n.status.Listeners[i]; l.Name == o.Name {
			l.Drain = map[bool]string{true: "closed"}[o.Drain]
			return nil
		}
	}
	return &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Detail: fmt.Sprintf("there is no listener %q", o.Name), Hint: "`lbctl listener list` shows them"}
}

func (n *fakeNode) OrderWorker(_ context.Context, o admin.WorkerOrder, _ admin.Ask) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.status.Workers {
		if w := &n.status.Workers[i]; w.Name == o.Name {
			w.State = map[bool]string{true: "drained", false: "starting"}[o.Drain]
			return nil
		}
	}
	return &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Detail: fmt.Sprintf("there is no worker %q in the crew that serves", o.Name), Hint: "`lbctl worker list` shows them"}
}

func (n *fakeNode) OrderNode(_ context.Context, o admin.NodeOrder, _ admin.Ask) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o.Name != "" && o.Name != "edge-1" {
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeOtherNode, Detail: "this is edge-1; only edge-2 itself can drain", Hint: "run `lbctl node drain` on edge-2 (10.0.0.12)"}
	}
	n.status.State = map[bool]string{true: "draining", false: "serving"}[o.Drain]
	return nil
}

func (n *fakeNode) Keys(context.Context) ([]admin.KeyRing, error) {
	return []admin.KeyRing{{Node: "edge-1", Alive: true, Keys: []string{"0a1b2c3d", "4e5f6071"}}, {Node: "edge-2", Alive: true, Keys: []string{"4e5f6071"}}}, nil
}

func (n *fakeNode) ChangeKey(_ context.Context, o admin.KeyOrder, _ admin.Ask) error {
	if o.Action == "use" && !o.Force {
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Detail: "edge-2 would not understand us: they do not have key " + o.Key, Hint: "run `lbctl cluster key add` there first, or --force"}
	}
	return nil
}

func (n *fakeNode) Upgrade(_ context.Context, o admin.UpgradeOrder, _ admin.Ask) error {
	if strings.Contains(o.Binary, "broken") {
		return &admin.Error{Status: http.StatusBadGateway, Code: admin.CodeUpgrade, Detail: "the upgrade failed and the old workers serve as before: the new crew exited with status 1"}
	}
	return nil
}

func (n *fakeNode) Leave(_ context.Context, o admin.LeaveOrder, _ admin.Ask) error {
	if o.Name != "" && o.Name != "edge-1" {
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeOtherNode, Detail: "this is edge-1; only edge-2 itself can leave", Hint: "run `lbctl node leave` on edge-2 (10.0.0.12)"}
	}
	if n.leave != nil {
		n.leave()
	}
	return nil
}
