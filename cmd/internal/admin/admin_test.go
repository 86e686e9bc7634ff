package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// fake is a Control that remembers what it was asked.
type fake struct {
	mu     sync.Mutex // guards the fields below
	calls  []string   // changes that were asked for
	text   string     // the last document
	edit   BackendEdit
	order  BackendOrder
	ask    Ask
	err    error
	ready  error
	events []Event
	more   chan struct{}
	sample []lb.Sample
}

func newFake() *fake { return &fake{more: make(chan struct{})} }

func (f *fake) heard() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// changed notes a change that was asked for.
func (f *fake) changed(what string, a Ask) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.ask = append(f.calls, what), a
	return f.err
}

func (f *fake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fake) Status(context.Context) (Status, error) {
	return Status{Node: "edge-1", Version: "1.2.3", Listeners: []Listener{}, Routes: []Route{}, Pools: []Pool{}, Services: []Service{},
		Sources: []Source{}, Workers: []Worker{}, Nodes: []Node{}, Problems: []Problem{}, Notes: []string{}}, f.heard()
}
func (f *fake) Backends(context.Context) ([]Backend, error) {
	return []Backend{{ID: "app/a:1"}}, f.heard()
}
func (f *fake) Samples() []lb.Sample { return f.sample }
func (f *fake) Ready() error         { return f.ready }
func (f *fake) Events(after uint64) ([]Event, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events[min(after, uint64(len(f.events))):], f.more
}
func (f *fake) tell(e lb.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, Event{uint64(len(f.events) + 1), e})
	close(f.more)
	f.more = make(chan struct{})
}
func (f *fake) Capture(_ context.Context, o CaptureOrder, to io.Writer) (CaptureDone, error) {
	if f.err != nil {
		return CaptureDone{}, f.err
	}
	_, err := io.WriteString(to, "packets of "+o.Flow)
	return CaptureDone{Packets: uint64(o.Packets), Lost: 3}, err
}

func (f *fake) Explain(_ context.Context, q Question) (Explanation, error) {
	return Explanation{Verdict: q.URL}, f.heard()
}
func (f *fake) Document(_ context.Context, g string) (Document, error) {
	return Document{"42@edge-1", "# " + g + "\n"}, f.heard()
}
func (f *fake) History(context.Context) ([]Generation, error) { return []Generation{}, f.heard() }
func (f *fake) Diff(_ context.Context, text []byte, file string) (Applied, error) {
	return Applied{Generation: "42@edge-1", DryRun: true, Notes: []string{file, string(text)}}, f.heard()
}
func (f *fake) Story(_ context.Context, id string) (Story, error) {
	return Story{Backend: Backend{ID: id}, Verdict: "it gets requests", Why: []string{}, Checks: []Check{}, Events: []Event{}}, f.heard()
}
func (f *fake) Certificates(context.Context) ([]Certificate, error) {
	return []Certificate{{Listener: "tls", Names: []string{"a.example"}}}, f.heard()
}

func (f *fake) Crashes(context.Context) ([]lb.Crash, error) {
	return []lb.Crash{{Worker: "1.0", PID: 4711, Flight: lb.Flight{Requests: []lb.FlightRequest{{Method: "GET"}}}}}, f.heard()
}

func (f *fake) Refused(context.Context) ([]Refusal, error) {
	return []Refusal{{Listener: "web", Status: 400}}, f.heard()
}

func (f *fake) Traffic(context.Context) (Traffic, error) {
	return Traffic{Node: "edge-1", Listeners: []Flow{}, Backends: []Flow{}, Packets: []Packets{}}, f.heard()
}
func (f *fake) Apply(_ context.Context, text []byte, file string, a Ask) (Applied, error) {
	f.text = file + ": " + string(text)
	return Applied{Generation: "43@edge-1", Changed: true}, f.changed("apply", a)
}
func (f *fake) Confirm(_ context.Context, a Ask) (Applied, error) {
	return Applied{Generation: "43@edge-1"}, f.changed("confirm", a)
}
func (f *fake) Adopt(_ context.Context, a Ask) (Applied, error) {
	return Applied{Generation: "43@edge-1"}, f.changed("adopt", a)
}
func (f *fake) Release(_ context.Context, o ReleaseOrder, a Ask) (Applied, error) {
	return Applied{Generation: "43@edge-1"}, f.changed(fmt.Sprint("release ", o.Discard), a)
}
func (f *fake) Rollback(_ context.Context, o RollbackOrder, a Ask) (Applied, error) {
	return Applied{Generation: o.Generation}, f.changed("rollback "+o.Generation, a)
}
func (f *fake) Reload(_ context.Context, a Ask) (Applied, error) {
	return Applied{Generation: "43@edge-1"}, f.changed("reload", a)
}
func (f *fake) EditBackend(_ context.Context, e BackendEdit, a Ask) (Applied, error) {
	f.edit = e
	return Applied{Generation: "43@edge-1"}, f.changed("edit", a)
}
func (f *fake) OrderBackend(_ context.Context, o BackendOrder, a Ask) error {
	f.order = o
	return f.changed("order backend", a)
}
func (f *fake) OrderWorker(_ context.Context, o WorkerOrder, a Ask) error {
	return f.changed(fmt.Sprint("order worker ", o.Name, " ", o.Drain), a)
}

func (f *fake) OrderListener(_ context.Context, o ListenerOrder, a Ask) error {
	return f.changed(fmt.Sprint("order listener ", o.Name, " ", o.Drain), a)
}
func (f *fake) OrderNode(_ context.Context, o NodeOrder, a Ask) error {
	return f.changed(fmt.Sprint("order node ", o.Drain), a)
}
func (f *fake) Leave(_ context.Context, o LeaveOrder, a Ask) error {
	return f.changed("leave", a)
}
func (f *fake) Keys(context.Context) ([]KeyRing, error) {
	return []KeyRing{{Node: "edge-1", Alive: true, Keys: []string{"0a1b2c3d"}}}, nil
}

func (f *fake) ChangeKey(_ context.Context, o KeyOrder, a Ask) error {
	return f.changed("key "+o.Action, a)
}

func (f *fake) Upgrade(_ context.Context, o UpgradeOrder, a Ask) error {
	return f.changed("upgrade "+o.Binary, a)
}

// served is a fake behind a real socket, a client of it and the audit log.
func served(t *testing.T) (*fake, *Client, *log) {
	t.Helper()
	f, audit := newFake(), &log{}
	path := filepath.Join(t.TempDir(), "lbd.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, f, Options{Log: slog.New(slog.NewTextHandler(audit, nil))}) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return f, Dial("unix://" + path), audit
}

// log is a buffer that may be written and read at once.
type log struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestEveryCallReachesTheNodeAndComesBack(t *testing.T) {
	f, c, _ := served(t)
	ctx := t.Context()
	if s, err := c.Status(ctx); err != nil || s.Node != "edge-1" {
		t.Errorf("status: %v %v", s, err)
	}
	if b, err := c.Backends(ctx); err != nil || len(b) != 1 {
		t.Errorf("backends: %v %v", b, err)
	}
	if v, err := c.Version(ctx); err != nil || v.Version != "1.2.3" || v.API != 1 {
		t.Errorf("version: %v %v", v, err)
	}
	if d, err := c.Document(ctx, "41@edge-1"); err != nil || d != (Document{"42@edge-1", "# 41@edge-1\n"}) {
		t.Errorf("document: %v %v", d, err)
	}
	how := Ask{Match: "42@edge-1", DryRun: true, Confirm: time.Minute}
	a, err := c.Apply(ctx, []byte("pools: {}"), "f.yaml", how)
	if err != nil || a.Generation != "43@edge-1" || !a.Changed {
		t.Errorf("apply: %v %v", a, err)
	}
	how.By = f.ask.By
	if f.text != "f.yaml: pools: {}" || f.ask != how || how.By == "" {
		t.Errorf("the node was asked to apply %q, %+v; want %+v", f.text, f.ask, how)
	}
	if a, err := c.Diff(ctx, []byte("x"), "g.yaml"); err != nil || a.Notes[0] != "g.yaml" || a.Notes[1] != "x" {
		t.Errorf("diff: %v %v", a, err)
	}
	if _, err := c.EditBackend(ctx, BackendEdit{Action: "remove", Pool: "app", Address: "a:1"}, Ask{Match: "9@x"}); err != nil || f.ask.Match != "9@x" || f.edit.Address != "a:1" {
		t.Errorf("edit: %+v %v", f.edit, err)
	}
	drain := true
	if err := c.OrderBackend(ctx, BackendOrder{ID: "app/a:1", Drain: &drain}, Ask{Match: "8@x"}); err != nil || f.ask.Match != "8@x" || f.order.ID != "app/a:1" || !*f.order.Drain {
		t.Errorf("order: %+v %v", f.order, err)
	}
	if e, err := c.Explain(ctx, Question{URL: "http://x/"}); err != nil || e.Verdict != "http://x/" {
		t.Errorf("explain: %v %v", e, err)
	}
	var packets strings.Builder
	if d, err := c.Capture(ctx, CaptureOrder{Flow: "192.0.2.10:80", Packets: 2}, &packets); err != nil || d != (CaptureDone{2, 3}) || packets.String() != "packets of 192.0.2.10:80" {
		t.Errorf("capture: %+v %v %q", d, err, packets.String())
	}
	if s, err := c.Story(ctx, "app/a:1"); err != nil || s.Backend.ID != "app/a:1" {
		t.Errorf("story: %v %v", s, err)
	}
	f.calls = nil
	for name, err := range map[string]error{
		"history": second(c.History(ctx)), "traffic": second(c.Traffic(ctx)), "certificates": second(c.Certificates(ctx)), "refused": second(c.Refused(ctx)), "crashes": second(c.Crashes(ctx)),
		"openapi": second(c.OpenAPI(ctx)),
		"confirm": second(c.Confirm(ctx, Ask{})), "adopt": second(c.Adopt(ctx, Ask{})), "reload": second(c.Reload(ctx, Ask{})),
		"release true": second(c.Release(ctx, ReleaseOrder{Discard: true}, Ask{})), "rollback 1": second(c.Rollback(ctx, RollbackOrder{Generation: "1"}, Ask{})),
		"order listener web true": c.OrderListener(ctx, ListenerOrder{Name: "web", Drain: true}, Ask{}),
		"order worker 1.0 true":   c.OrderWorker(ctx, WorkerOrder{Name: "1.0", Drain: true}, Ask{}),
		"order node true":         c.OrderNode(ctx, NodeOrder{Drain: true}, Ask{}), "leave": c.Leave(ctx, LeaveOrder{}, Ask{}), "upgrade b": c.Upgrade(ctx, UpgradeOrder{Binary: "b"}, Ask{}),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	want := []string{"adopt", "confirm", "leave", "order listener web true", "order node true", "order worker 1.0 true", "release true", "reload", "rollback 1", "upgrade b"}
	slices.Sort(f.calls)
	if !slices.Equal(f.calls, want) {
		t.Errorf("the node was asked for %v, want %v", f.calls, want)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAChangeIsLoggedWithWhoAsked(t *testing.T) {
	f, c, audit := served(t)
	f.err = &Error{Status: http.StatusConflict, Code: CodeOwnedByFile, Detail: "objects are owned by F"}
	if _, err := c.Reload(t.Context(), Ask{}); err == nil {
		t.Error("want the refusal")
	}
	who := fmt.Sprintf("uid %d (pid %d)", os.Getuid(), os.Getpid())
	if f.ask.By != who {
		t.Errorf("the node heard %q, want %q", f.ask.By, who)
	}
	for _, want := range []string{who, "/v1/config/reload", "refused", "LB5001"} {
		if !strings.Contains(audit.String(), want) {
			t.Errorf("the audit log has no %q: %s", want, audit)
		}
	}
}

func TestAnErrorKeepsItsCodeHintAndPlaces(t *testing.T) {
	f, c, _ := served(t)
	f.err = fmt.Errorf("wrapped: %w", &Error{Status: http.StatusUnprocessableEntity, Code: CodeRefused, Detail: "no", Hint: "do",
		Errors: []*lb.Error{{Code: "LB1103", Line: 7}}})
	_, err := c.Status(t.Context())
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeRefused || e.Hint != "do" || e.Status != 422 || len(e.Errors) != 1 || e.Errors[0].Line != 7 {
		t.Errorf("got %#v", err)
	}
	f.err = errors.New("disk on fire")
	if _, err = c.Status(t.Context()); !errors.As(err, &e) || e.Code != CodeInternal || e.Status != 500 {
		t.Errorf("got %#v", err)
	}
}

func TestWhoDoesNotAnswerIsUnreachable(t *testing.T) {
	dir := t.TempDir()
	_, err := Dial(filepath.Join(dir, "none.sock")).Status(t.Context())
	if u := (*Unreachable)(nil); !errors.As(err, &u) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket that is not there: %v", err)
	}
	path := filepath.Join(dir, "stale.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err = Dial(path).Status(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a socket that nobody serves: %v", err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	again.Close()
}

func TestListenRefusesWhatIsNotItsOwn(t *testing.T) {
	_, c, _ := served(t)
	if _, err := Listen(c.path); err == nil || !strings.Contains(err.Error(), "another lbd") {
		t.Errorf("over a socket that is served: %v", err)
	}
	file := filepath.Join(t.TempDir(), "f")
	os.WriteFile(file, nil, 0o600)
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if i, err := os.Stat(c.path); err != nil || i.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode is %v (%v), want 0660", i.Mode(), err)
	}
}

func TestTheServerRefusesWhatItCannotRead(t *testing.T) {
	h := Handler(newFake(), Options{Log: slog.New(slog.DiscardHandler)})
	for _, c := range []struct {
		name, method, path, body, match string
		status                          int
	}{
		{"an unknown field", "POST", "/v1/backends/order", `{"id":"a/b","nonsense":1}`, "", 400},
		{"two values", "POST", "/v1/backends/order", `{"id":"a/b"}{}`, "", 400},
		{"no JSON", "POST", "/v1/nodes/order", `drain`, "", 400},
		{"an order beyond its bound", "POST", "/v1/nodes/order", `{"name":"` + strings.Repeat("x", maxOrder) + `"}`, "", 413},
		{"a document beyond its bound", "PUT", "/v1/config", strings.Repeat("#", maxDocument+1), "", 413},
		{"a weak tag", "PUT", "/v1/config", "", `W/"42@edge-1"`, 400},
		{"two tags", "PUT", "/v1/config", "", `"1", "2"`, 400},
		{"an unknown path", "GET", "/v1/nothing", "", "", 404},
		{"an unknown method", "DELETE", "/v1/config", "", "", 404},
		{"no number", "GET", "/v1/events?after=x", "", "", 400},
		{"a misspelt dry run", "PUT", "/v1/config?dry-run=true", "", "", 400},
		{"a dry run that is neither", "PUT", "/v1/config?dry_run=1", "", "", 400},
		{"a parameter that is there twice", "PUT", "/v1/config?dry_run=true&dry_run=false", "", "", 400},
		{"no duration", "PUT", "/v1/config?confirm=soon", "", "", 400},
		{"a dry run of what has none", "POST", "/v1/upgrade?dry_run=true", "{}", "", 400},
		{"a body where there is none", "POST", "/v1/config/reload", "{}", "", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			if c.match != "" {
				r.Header.Set("If-Match", c.match)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.status || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %s %s, want %d and a problem", w.Code, w.Header().Get("Content-Type"), w.Body, c.status)
			}
		})
	}
}

func TestTheDocumentHasItsGenerationAsTag(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(newFake(), Options{Log: slog.New(slog.DiscardHandler)}).ServeHTTP(w, httptest.NewRequest("GET", "/v1/config", nil))
	if w.Header().Get("ETag") != `"42@edge-1"` || w.Header().Get("Content-Type") != "application/yaml" {
		t.Errorf("headers %v", w.Header())
	}
}

func TestWatchGetsOldEventsAndNewOnes(t *testing.T) {
	f, c, _ := served(t)
	f.tell(lb.Event{Kind: "one"})
	f.tell(lb.Event{Kind: "two"})
	var kinds []string
	enough := errors.New("enough")
	err := c.Watch(t.Context(), 1, func(e Event) error {
		kinds = append(kinds, fmt.Sprintf("%d %s", e.Seq, e.Kind))
		if len(kinds) == 1 {
			f.tell(lb.Event{Kind: "three"})
			return nil
		}
		return enough
	})
	if err != enough || strings.Join(kinds, ", ") != "2 two, 3 three" {
		t.Errorf("events %v, %v", kinds, err)
	}
}

func TestTheReadOnlyServerOnlyReads(t *testing.T) {
	f := newFake()
	h := ReadOnly(f)
	get := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := get("GET", "/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	if code, _ := get("GET", "/readyz"); code != 200 {
		t.Errorf("readyz: %d", code)
	}
	f.ready = errors.New("draining")
	if code, body := get("GET", "/readyz"); code != 503 || body != "draining\n" {
		t.Errorf("readyz of a draining node: %d %s", code, body)
	}
	for _, path := range []string{"/v1/config", "/v1/nodes/order", "/metrics"} {
		if code, body := get("POST", path); code != 405 || !strings.Contains(body, CodeReadOnly) && path != "/metrics" {
			t.Errorf("POST %s: %d %s", path, code, body)
		}
	}
	if code, _ := get("GET", "/v1/status"); code != 404 {
		t.Errorf("the API over TCP: %d", code)
	}
}

func TestSamplesBecomeMetrics(t *testing.T) {
	f := newFake()
	f.sample = []lb.Sample{
		{Name: "lbd_requests_total", Labels: []string{"listener", "web", "code", "200"}, Value: 7},
		{Name: "lbd_requests_total", Labels: []string{"listener", "web", "code", "404"}, Value: 1},
		{Name: "lbd_requests_total", Labels: []string{"listener", "web", "code", "404"}, Value: 2}, // twice there
		{Name: "lbd_backend_up", Gauge: true, Labels: []string{"pool", "app"}, Value: 1},
		{Name: "lbd_request_duration_seconds", Value: 0.75, Count: 3, Buckets: []lb.Bucket{{Le: 0.1, N: 1}, {Le: 1, N: 3}}},
		{Name: "lbd_odd", Labels: []string{"alone"}, Value: 1},
	}
	w := httptest.NewRecorder()
	ReadOnly(f).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, _ := io.ReadAll(w.Body)
	for _, want := range []string{
		"# TYPE lbd_requests_total counter\n", `lbd_requests_total{code="404",listener="web"} 1`,
		"# TYPE lbd_backend_up gauge\n", `lbd_backend_up{pool="app"} 1`,
		"# TYPE lbd_request_duration_seconds histogram\n", `lbd_request_duration_seconds_bucket{le="0.1"} 1`,
		"lbd_request_duration_seconds_sum 0.75", "lbd_request_duration_seconds_count 3",
		"lbd_admin_invalid_samples 2", "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// Every name that has a help text is one that Prometheus' own linter accepts.
func TestMetricNamesAreAccepted(t *testing.T) {
	f := newFake()
	for name := range helps {
		s := lb.Sample{Name: name, Gauge: !strings.HasSuffix(name, "_total")}
		if strings.HasSuffix(name, "_seconds") && !strings.Contains(name, "timestamp") {
			s = lb.Sample{Name: name, Buckets: []lb.Bucket{{Le: 1}}}
		}
		f.sample = append(f.sample, s)
	}
	w := httptest.NewRecorder()
	ReadOnly(f).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	problems, err := promlint.New(w.Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "lbd_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// A client that connects and says nothing takes one of the places, not all.
func TestConnectionsAreBounded(t *testing.T) {
	_, c, _ := served(t)
	var open []net.Conn
	for range connections - 1 {
		conn, err := net.Dial("unix", c.path)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("with one place left: %v", err)
	}
	for _, conn := range open {
		conn.Close()
	}
}
