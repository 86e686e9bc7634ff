package app

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
)

const shop = `
node: { name: edge-1, address: 10.0.0.11 }
listeners:
  web: { bind: "192.0.2.10:80" }
  own: { bind: ":8080" }
routes:
  - match: { host: ["*.shop.example"], path: /api/, method: [GET], header: { x-canary: "1" } }
    filters: [ headers: { response: { remove: [server] } } ]
    pool: app
  - match: { listener: [own] }
    respond: { status: 200 }
  - match: { host: [split.example] }
    split: { app: 90, spare: 10 }
  - match: { path: "=/old" }
    redirect: { status: 301, path: /new }
pools:
  app:
    balance: least_request
    check: { http: /healthz, interval: 5s }
    backends: ["127.0.0.1:9001", "127.0.0.1:9002", { address: "127.0.0.1:9003", weight: 2, backup: true }]
  spare: { backends: ["127.0.0.1:9009"] }
`

var (
	first  = lb.BackendID{Pool: "app", Address: "127.0.0.1:9001"}
	second = lb.BackendID{Pool: "app", Address: "127.0.0.1:9002"}
	spare  = lb.BackendID{Pool: "spare", Address: "127.0.0.1:9009"}
)

// snapshot is a serving node with the shop's configuration.
func snapshot(t *testing.T) *node.Snapshot {
	t.Helper()
	c, err := lb.Parse([]byte(shop), lb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	web := netip.MustParseAddrPort("192.0.2.10:80")
	return &node.Snapshot{
		Name: "edge-1", Version: "1", Serving: true, Ready: true, Weight: 2, Generation: node.Generation{Counter: 42, Node: "edge-1"},
		Owner: node.OwnedFile, File: "/f.yaml", Config: c, Fastpath: node.Fastpath{Mode: "native"},
		State:   lb.State{Health: map[lb.BackendID]lb.Health{first: lb.Down, second: lb.Up}},
		Overlay: node.Overlay{Backends: map[lb.BackendID]lb.Admin{}},
		VIPs:    []lb.VIP{{Addr: web.Addr(), Port: 80, Protocol: lb.TCP}},
		Sockets: []lb.SteeredBind{{Bind: web, Live: []bool{true, false}}},
	}
}

func TestStatusSaysWhatIsExposedAndWhatIsBroken(t *testing.T) {
	s := snapshot(t)
	stats := lb.Stats{Connections: 5, Samples: []lb.Sample{
		{Name: "lbd_requests_total", Labels: []string{"listener", "web", "pool", "app", "code_class", "2xx"}, Value: 7},
		{Name: "lbd_requests_total", Labels: []string{"listener", "web", "pool", "app", "code_class", "4xx"}, Value: 3},
	}}
	got := statusOf(s, stats, []node.Report{{ID: first, Last: []node.Probe{{Detail: "status 503"}}}}, nil)
	if got.State != "serving" || got.Generation != "42@edge-1" || got.Connections != 5 {
		t.Errorf("status %+v", got)
	}
	want := []admin.Listener{
		{Name: "web", Bind: "192.0.2.10:80", Protocol: "http", Scope: "vip", Slots: 2, Live: 1, Requests: 10},
		{Name: "own", Bind: "[::]:8080", Protocol: "http", Scope: "local"},
	}
	if d := cmp.Diff(want, got.Listeners); d != "" {
		t.Errorf("listeners (-want +got):\n%s", d)
	}
	problems := []admin.Problem{{Subject: "backend app/127.0.0.1:9001", Text: "is down: status 503", Do: "mend it, or lbctl backend drain app/127.0.0.1:9001"}}
	if d := cmp.Diff(problems, got.Problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
	var routes []string
	for _, r := range got.Routes {
		routes = append(routes, r.Match+" > "+r.Target)
	}
	wantRoutes := []string{
		"host *.shop.example, path /api/, method GET, header x-canary=1 > pool app",
		"listener own > respond 200",
		"host split.example > split app:90 spare:10",
		"path =/old > redirect 301",
	}
	if d := cmp.Diff(wantRoutes, routes); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
}

// A backend that this node alone finds down is a problem of the way there.
func TestStatusSaysWhichBackendThisNodeAloneFindsDown(t *testing.T) {
	got := statusOf(snapshot(t), lb.Stats{}, []node.Report{{ID: first, Alone: true, Last: []node.Probe{{Detail: "connect: no answer within 1s"}}}}, nil)
	want := []admin.Problem{{Subject: "backend app/127.0.0.1:9001", Text: "is down as this node alone sees it: connect: no answer within 1s",
		Do: "look at the network between this node and the backend: the others reach it"}}
	if d := cmp.Diff(want, got.Problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
}

// What operators chose is no problem; a pool that nobody serves is one.
func TestOrdersAreNoProblemsButAnEmptyPoolIs(t *testing.T) {
	s := snapshot(t)
	s.State.Health = nil
	s.Overlay.Backends = map[lb.BackendID]lb.Admin{first: {Drain: true}, spare: {Disable: true}}
	got := statusOf(s, lb.Stats{Backends: []lb.BackendLoad{{ID: first, Active: 2}, {ID: first, Active: 1}}}, nil, nil)
	if len(got.Problems) != 1 || got.Problems[0].Subject != "pool spare" {
		t.Errorf("problems %+v, want the pool spare's", got.Problems)
	}
	all := backendsOf(s, lb.Stats{Backends: []lb.BackendLoad{{ID: first, Active: 2}, {ID: first, Active: 1}}}, nil)
	if all[0].State != "draining" || all[0].Active != 3 || all[3].State != "disabled" || all[1].State != "unknown" {
		t.Errorf("backends %+v", all)
	}
	if s.Overlay.Backends[first] = (lb.Admin{Drain: true}); backendsOf(s, lb.Stats{}, nil)[0].State != "drained" {
		t.Error("a drained backend with nothing in progress is drained")
	}
}

func TestTheNodesOfACluster(t *testing.T) {
	s := snapshot(t)
	s.Clustered = true
	s.Epochs = []lb.Epoch{{Counter: 7, Origin: "edge-2"}}
	view := lb.View(s.Epochs)
	s.Peers = []node.Peer{
		{Name: "edge-1", Self: true, Listed: true, State: "alive", Ready: true, Weight: 2, View: view},
		{Name: "edge-2", State: "alive", Ready: true, Listed: true, Weight: 2, View: view},
		{Name: "edge-3", State: "alive", Ready: true, View: 1},
		{Name: "edge-4", State: "dead"},
	}
	var got []string
	for _, n := range nodesOf(s, lb.Stats{}) {
		got = append(got, strings.Join([]string{n.Name, n.State, map[bool]string{true: "in sync", false: "differs"}[n.InSync]}, " "))
	}
	want := []string{"edge-1 serving in sync", "edge-2 serving in sync", "edge-3 draining differs", "edge-4 dead differs"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("nodes (-want +got):\n%s", d)
	}
	// Earlier epochs are forgotten by each in its time: that is not out of sync.
	s.Peers[1].View = view + 1
	epoch := s.Epochs[0].Digest()
	s.Standings = map[string]node.Standing{"edge-1": {Epoch: epoch}, "edge-2": {Epoch: epoch}, "edge-3": {Epoch: epoch + 1}, "edge-4": {Epoch: epoch}}
	if all := nodesOf(s, lb.Stats{}); !all[1].InSync || all[2].InSync || all[3].InSync {
		t.Errorf("with another past edge-2 is in sync: %v; with another present edge-3: %v; when it is dead edge-4: %v", all[1].InSync, all[2].InSync, all[3].InSync)
	}
	s.Standings["edge-2"] = node.Standing{Epoch: epoch, Objects: "another file"}
	if all := nodesOf(s, lb.Stats{}); all[1].InSync || all[1].Differs != "objects" || all[2].Differs != "epoch" {
		t.Errorf("edge-2 with other objects differs by %q, edge-3 with another epoch by %q", all[1].Differs, all[2].Differs)
	}
	if f := fastpathOf(s); f.Epoch != "7@edge-2" || f.View != view {
		t.Errorf("fast path %+v", f)
	}
}

// quiet is a node without anything around it, for explanations.
type quiet struct{}

func (quiet) Stats() lb.Stats { return lb.Stats{} }
func (quiet) Reports() []node.Report {
	return []node.Report{{ID: first, Last: []node.Probe{{Detail: "connect: refused"}}}}
}
func (quiet) Explain(t lb.Tuple) (node.Path, bool) {
	return node.Path{VIP: "192.0.2.10:80/tcp", Row: 9, Chain: []string{"edge-2", "edge-1"}, Slot: -1}, true
}

func explained(t *testing.T, s *node.Snapshot, q admin.Question) admin.Explanation {
	t.Helper()
	e, err := explainQuestion(s, quiet{}, q)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestExplainFollowsARequest(t *testing.T) {
	s := snapshot(t)
	for _, c := range []struct {
		name    string
		q       admin.Question
		verdict string
		whys    []string
	}{
		{"the first route, by all it asks for", admin.Question{URL: "http://a.shop.example/api/x", Header: map[string]string{"X-Canary": "1"}},
			"route 1 (line 7): pool app, least_request over 1 backend", []string{"the first that matches", "not asked: an earlier route matches", "not asked: an earlier route matches", "not asked: an earlier route matches"}},
		{"a header that lacks", admin.Question{URL: "http://a.shop.example/api/x"},
			"answered with 404 (no_route): no route matches", []string{"a header differs", "the listener is web", "the host is a.shop.example", "the path is /api/x"}},
		{"a method", admin.Question{URL: "http://a.shop.example/api/x", Method: "POST"},
			"answered with 404 (no_route): no route matches", []string{"the method is POST", "the listener is web", "the host is a.shop.example", "the path is /api/x"}},
		{"another listener", admin.Question{URL: "http://127.0.0.1:8080/"}, "route 2 (line 10) answers itself: respond 200",
			[]string{"the host is 127.0.0.1:8080", "the first that matches", "not asked: an earlier route matches", "not asked: an earlier route matches"}},
		{"a split", admin.Question{URL: "http://split.example/"}, "route 3 (line 12): split app:90 spare:10, one of 2 backends",
			[]string{"the host is split.example", "the listener is web", "the first that matches", "not asked: an earlier route matches"}},
		{"nobody", admin.Question{URL: "https://shop.example/"}, "no listener takes https on port 443; there are web (http 192.0.2.10:80), own (http [::]:8080)", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := explained(t, s, c.q)
			var whys []string
			for _, r := range e.Routes {
				whys = append(whys, r.Why)
			}
			if e.Verdict != c.verdict {
				t.Errorf("verdict %q, want %q", e.Verdict, c.verdict)
			}
			if d := cmp.Diff(c.whys, whys); d != "" {
				t.Errorf("routes (-want +got):\n%s", d)
			}
		})
	}
}

func TestExplainSaysWhyNotTheOtherBackends(t *testing.T) {
	s := snapshot(t)
	q := admin.Question{URL: "http://a.shop.example/api/x", Header: map[string]string{"x-canary": "1"}}
	whys := func() map[string]string {
		out := map[string]string{}
		for _, b := range explained(t, s, q).Backends {
			out[b.ID] = b.Why
		}
		return out
	}
	want := map[string]string{"app/127.0.0.1:9001": "down: connect: refused", "app/127.0.0.1:9002": "up", "app/127.0.0.1:9003": "a backup, and others are up"}
	if d := cmp.Diff(want, whys()); d != "" {
		t.Errorf("backends (-want +got):\n%s", d)
	}
	zero := 0
	s.Overlay.Backends = map[lb.BackendID]lb.Admin{first: {Disable: true}, second: {Weight: &zero}}
	want = map[string]string{"app/127.0.0.1:9001": "disabled by an operator", "app/127.0.0.1:9002": "its weight is 0", "app/127.0.0.1:9003": "unknown"}
	if d := cmp.Diff(want, whys()); d != "" {
		t.Errorf("backends (-want +got):\n%s", d)
	}
}

func TestExplainKnowsOfEjections(t *testing.T) {
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := choice(admin.Backend{Health: "up", Weight: 1, Ejected: &admin.Ejection{Until: until, Reason: string(lb.Outlier)}}, surroundings{})
	if c.Eligible || c.Why != "ejected until 2026-01-02T03:04:05Z (outlier)" {
		t.Errorf("got %+v", c)
	}
}

func TestExplainKnowsOfPanic(t *testing.T) {
	down := admin.Backend{ID: "down", Health: "down", State: "down", Weight: 1}
	backup := admin.Backend{ID: "backup", Health: "up", State: "up", Weight: 1, Backup: true}
	for _, c := range []struct {
		share lb.Share
		pool  []admin.Backend
		want  string
	}{
		{0, []admin.Backend{down, down}, ""},
		{.5, []admin.Backend{down, down}, "down down"},
		{.5, []admin.Backend{down, {ID: "up", Health: "up", Weight: 1}}, "up"},
		{.6, []admin.Backend{down, {ID: "up", Health: "up", Weight: 1}}, "down up"},
		{.6, []admin.Backend{down, {ID: "up", Health: "up", Weight: 1}, backup}, "up backup"},
		{.5, []admin.Backend{down, {ID: "up", Health: "up", Weight: 1}, backup}, "up"},
		{.5, []admin.Backend{{ID: "drained", Drain: true, Health: "up", Weight: 1}, down}, "down"},
	} {
		var got []string
		for _, b := range c.pool {
			if one := choice(b, surroundingsOf(c.pool, &lb.Pool{Panic: c.share})); one.Eligible {
				got = append(got, one.ID)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("panic at %v of %+v: %q may be picked, want %q", c.share, c.pool, s, c.want)
		}
	}
}

func TestExplainFollowsAFlow(t *testing.T) {
	s := snapshot(t)
	e := explained(t, s, admin.Question{Tuple: "tcp 198.51.100.7:40000 > 192.0.2.10:80"})
	if e.Listener != "web" || e.Scope != "vip" || e.Packet.Row != 9 || !strings.Contains(e.Verdict, "which edge-2 takes") {
		t.Errorf("%+v %+v", e, e.Packet)
	}
	e = explained(t, s, admin.Question{Tuple: "198.51.100.7:40000 203.0.113.1:80"})
	if e.Scope != "none" || !strings.Contains(e.Verdict, "no listener has 203.0.113.1:80") {
		t.Errorf("%+v", e)
	}
	e = explained(t, s, admin.Question{URL: "http://a.shop.example/", From: "198.51.100.7:40000"})
	if e.Packet == nil || e.Packet.Tuple != "tcp 198.51.100.7:40000 > 192.0.2.10:80" {
		t.Errorf("packet %+v", e.Packet)
	}
}

func TestExplainRefusesWhatItCannotRead(t *testing.T) {
	s := snapshot(t)
	for _, q := range []admin.Question{
		{Tuple: "here there"}, {Tuple: "192.0.2.1:1"}, {URL: "ftp://x/"}, {URL: "http:///x"}, {URL: "http://x/", Listener: "none"}, {URL: "http://x/", From: "me"},
	} {
		_, err := explainQuestion(s, quiet{}, q)
		if e := (*admin.Error)(nil); !errors.As(err, &e) || e.Status != http.StatusBadRequest && e.Status != http.StatusNotFound {
			t.Errorf("%+v: %v, want it refused", q, err)
		}
	}
}

func TestParseTupleReadsWhatPeopleWrite(t *testing.T) {
	want := "tcp 198.51.100.7:40000 > 192.0.2.10:80"
	for _, text := range []string{want, "198.51.100.7:40000 192.0.2.10:80", "tcp 198.51.100.7:40000 -> 192.0.2.10:80", "198.51.100.7:40000,192.0.2.10:80", "198.51.100.7:40000>192.0.2.10:80"} {
		if got, err := parseTuple(text); err != nil || got.String() != want {
			t.Errorf("%q is %v (%v)", text, got, err)
		}
	}
	if got, err := parseTuple("udp [2001:db8::1]:5 [2001:db8::2]:53"); err != nil || got.Protocol != lb.UDP || got.Dst.Port() != 53 {
		t.Errorf("%v %v", got, err)
	}
}

func TestEveryKindOfErrorHasAnAnswer(t *testing.T) {
	for k := node.Internal; k <= node.Invalid; k++ {
		err := problem(&node.Error{Kind: k, Text: "text", Hint: "hint", Err: lb.Errors{{Code: "LB1"}}})
		var e *admin.Error
		if !errors.As(err, &e) || e.Status < 400 || e.Code == "" || e.Detail != "text" || e.Hint != "hint" || len(e.Errors) != 1 {
			t.Errorf("kind %d: %+v", k, err)
		}
	}
	if err := errors.New("x"); problem(err) != err {
		t.Error("another error stays what it is")
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	s := snapshot(t)
	if err := readiness(s); err != nil {
		t.Errorf("a serving node: %v", err)
	}
	s.Drain = node.DrainStatus{Draining: true, Since: time.Unix(1, 0)}
	if err := readiness(s); err == nil || err.Error() != "draining" {
		t.Errorf("a draining node: %v", err)
	}
	if err := readiness(&node.Snapshot{}); err == nil {
		t.Error("a node that has not begun is ready")
	}
}
