package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/health"
)

var (
	partitionTime  = flag.Duration("partitions", 10*time.Second, "how long TestPartitionsHeal cuts and heals")
	partitionNodes = flag.Int("partition-nodes", 5, "how many nodes it has")
)

// healBound is within what all nodes agree after the last heal.
const healBound = 15 * time.Second

// TestPartitionsHeal has nodes with clocks that are up to five minutes apart,
// cuts the links between them at random, edits the document on all sides and
// takes a backend away now and then. After the last heal all have one document,
// built by all, and find the same backends up; no edit is lost without a word,
// and nobody took a backend for down that was up. Gossip, replication, node and
// health checks are the real ones; workers are not needed for it.
func TestPartitionsHeal(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newWorld(t, *partitionNodes, rand.New(rand.NewPCG(seed, 0)))
	w.begin()
	edits, cuts := 0, 0
	for end := time.Now().Add(*partitionTime); time.Now().Before(end); cuts++ {
		w.split()
		for range 3 {
			time.Sleep(w.between(200, 900))
			if w.edit() {
				edits++
			}
			w.toggle()
		}
		if w.random.IntN(3) == 0 {
			w.heal()
			time.Sleep(w.between(200, 3000))
		}
	}
	w.heal()
	w.toggled(true)
	took := w.agree()
	t.Logf("%d nodes, %d cuts, %d edits in %v: one document, one health and no drift %v after the last heal; %d edits lost to others and in the history of their authors",
		len(w.nodes), cuts, edits, *partitionTime, took.Round(10*time.Millisecond), w.accountForEdits())
	w.noFlaps()
}

// world is nodes, their links and their backends.
type world struct {
	t        *testing.T
	random   *rand.Rand
	nodes    []*player
	backends []*httptest.Server // the last one comes and goes
	away     atomic.Bool        // it is gone

	mu    sync.Mutex // guards what follows
	sides map[netip.AddrPort]int
	acked []node.Generation
}

// player is one node of the world.
type player struct {
	name    string
	node    *node.Node
	cluster *cluster.Cluster
	monitor *health.Monitor

	mu      sync.Mutex // guards what follows
	changes []health.Change
}

func newWorld(t *testing.T, n int, random *rand.Rand) *world {
	w := &world{t: t, random: random, sides: map[netip.AddrPort]int{}}
	for range 4 {
		s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(s.Close)
		w.backends = append(w.backends, s)
	}
	dir := t.TempDir()
	key := cluster.NewKey()
	for i := range n {
		w.nodes = append(w.nodes, w.play(dir, i, key))
	}
	for _, p := range w.nodes {
		<-p.node.Serving()
	}
	return w
}

func (w *world) play(dir string, i int, key cluster.Key) *player {
	w.t.Helper()
	p := &player{name: fmt.Sprintf("edge-%d", i+1)}
	home := filepath.Join(dir, p.name)
	text := fmt.Sprintf("node: { name: %s, address: 10.0.0.%d, data_dir: %s/data, run_dir: %s/run }\ncluster: { name: world, bind: \"127.0.0.1:0\" }\n", p.name, i+1, home, home)
	if i == 0 {
		text += "listeners: { web: { bind: \":8080\" } }\nroutes: [{ pool: app }]\npools:\n  app:\n    check: { http: /, interval: 500ms, timeout: 2s, fall: 3 }\n    backends:\n"
		for _, s := range w.backends {
			text += fmt.Sprintf("      - %q\n", s.Listener.Addr())
		}
	}
	file := filepath.Join(home, "lbd.yaml")
	for _, err := range []error{os.MkdirAll(filepath.Join(home, "run"), 0o700), os.WriteFile(file, []byte(text), 0o600)} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	state, err := node.Load(file, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var made atomic.Pointer[node.Node]
	note := func(e lb.Event) {
		if n := made.Load(); n != nil {
			n.Note(e)
		}
	}
	p.monitor = health.New(health.Options{Dial: w.dial, Changed: func(c health.Change) {
		p.mu.Lock()
		p.changes = append(p.changes, c)
		p.mu.Unlock()
		note(c.Event())
	}})
	var join []string
	for _, other := range w.nodes {
		join = append(join, other.cluster.Address().String())
	}
	var own atomic.Pointer[netip.AddrPort]
	p.cluster, err = cluster.Open(cluster.Options{
		Name: "world", Self: lb.Member{Name: p.name, Boot: lb.BootID{byte(i + 1)}, Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Weight: 1},
		Bind: netip.MustParseAddrPort("127.0.0.1:0"), Join: join, Keys: []cluster.Key{key}, Notify: note,
		IdentityFile: filepath.Join(home, "data", "identity.json"),
		Reaches: func(to netip.AddrPort) bool {
			from := own.Load()
			return from == nil || w.reachable(*from, to)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	at := p.cluster.Address()
	own.Store(&at)
	skew := time.Duration(w.random.IntN(600)-300) * time.Second
	p.node, err = node.New(node.Options{
		State: state, Fleet: newIdleFleet(), Monitor: monitor{p.monitor, &fleet{}, slog.New(slog.DiscardHandler)}, Cluster: gossip{p.cluster},
		DatapathError: errors.New("none"), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(skew) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	made.Store(p.node)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.cluster.Run(ctx) })
	running.Go(func() { p.monitor.Run(ctx) })
	running.Go(func() { p.node.Run(ctx) })
	running.Go(func() {
		s := sharer{monitor: p.monitor, cluster: p.cluster, self: p.name}
		for ctx.Err() == nil {
			if err := s.turn(time.Now()); err != nil {
				w.t.Error(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(shareEvery):
			}
		}
	})
	w.t.Cleanup(func() { cancel(); p.cluster.Close(); running.Wait(); state.Close() })
	return p
}

// dial reaches a backend unless it is away.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if last := w.backends[len(w.backends)-1]; w.away.Load() && address == last.Listener.Addr().String() {
		return nil, errors.New("connection refused")
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (w *world) reachable(a, b netip.AddrPort) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sides[a] == w.sides[b]
}

// begin has the first node adopt its objects, which the others then take.
func (w *world) begin() {
	w.t.Helper()
	if _, err := w.nodes[0].node.Adopt(w.t.Context(), node.Asked{By: "test"}); err != nil {
		w.t.Fatal(err)
	}
	w.agree()
}

func (w *world) between(from, to int) time.Duration {
	return time.Duration(from+w.random.IntN(to-from)) * time.Millisecond
}

// split puts each node on one of up to three sides.
func (w *world) split() {
	w.mu.Lock()
	defer w.mu.Unlock()
	sides := 2 + w.random.IntN(2)
	for _, p := range w.nodes {
		w.sides[p.cluster.Address()] = w.random.IntN(sides)
	}
}

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.sides)
}

// edit changes a weight on a random node; one that is busy with another
// change says no.
func (w *world) edit() bool {
	p := w.nodes[w.random.IntN(len(w.nodes))]
	weight := 1 + w.random.IntN(1000)
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Millisecond) // nobody waits for the nodes beyond the cut
	defer cancel()
	id := lb.BackendID{Pool: "app", Address: w.backends[0].Listener.Addr().String()}
	done, err := p.node.EditBackend(ctx, node.BackendEdit{Action: "set", ID: id, Weight: &weight}, node.Asked{By: "test"})
	if err != nil || !done.Changed {
		return false
	}
	w.acked = append(w.acked, done.Generation)
	return true
}

func (w *world) toggle() {
	if w.random.IntN(4) == 0 {
		w.toggled(w.away.Load())
	}
}

func (w *world) toggled(back bool) { w.away.Store(!back) }

// agree waits until all nodes have one document and one opinion of each backend.
func (w *world) agree() time.Duration {
	w.t.Helper()
	began := time.Now()
	for {
		why := w.differs()
		switch took := time.Since(began); {
		case why == "":
			return took
		case took > healBound+2*time.Second:
			w.t.Fatalf("%v after the heal: %s", took, why)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *world) differs() string {
	first := w.nodes[0].node.Snapshot()
	for _, p := range w.nodes {
		s := p.node.Snapshot()
		switch {
		case s.Edition.IsZero() || s.Edition != first.Edition:
			return fmt.Sprintf("%s runs document %s, %s runs %s", p.name, s.Edition, w.nodes[0].name, first.Edition)
		case s.Drift != nil:
			return fmt.Sprintf("%s drifts: %+v", p.name, s.Drift)
		}
		if a, b := w.text(p), w.text(w.nodes[0]); a != b {
			return fmt.Sprintf("%s has another text of %s", p.name, s.Edition)
		}
		for _, b := range w.backends {
			if h := s.State.Health[lb.BackendID{Pool: "app", Address: b.Listener.Addr().String()}]; h != lb.Up {
				return fmt.Sprintf("%s finds a backend %s", p.name, h)
			}
		}
		for _, other := range w.nodes {
			if theirs := s.Standings[other.name]; theirs.Document != first.Edition || !theirs.Alive {
				direct := ""
				for _, said := range p.cluster.Said("config") {
					direct += fmt.Sprintf(" %s:%s", said.Member, said.Body)
				}
				return fmt.Sprintf("%s believes that %s has %s (alive: %v); counters %+v; it heard%s", p.name, other.name, theirs.Document, theirs.Alive, p.cluster.Counters(), direct)
			}
		}
	}
	return ""
}

func (w *world) text(p *player) string {
	text, _, err := p.node.Document("")
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// accountForEdits wants each edit that was acknowledged in its author's history
// and, unless the final document follows it, marked as lost. It counts those.
func (w *world) accountForEdits() (lost int) {
	w.t.Helper()
	final, _ := w.nodes[0].cluster.Document()
	for _, g := range w.acked[max(0, len(w.acked)-20):] { // the history has 50 entries
		i := slices.IndexFunc(w.nodes, func(p *player) bool { return p.name == g.Node })
		var found *node.Past
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			found = nil
			for _, past := range w.nodes[i].node.History() {
				if past.Generation == g {
					found = &past
				}
			}
			if found != nil && (final.Generation == g || final.Follows(g) || !found.Lost.IsZero()) || time.Now().After(deadline) {
				break
			}
		}
		switch {
		case found == nil:
			w.t.Errorf("%s was acknowledged by %s and is not in its history", g, g.Node)
		case final.Generation == g || final.Follows(g):
		case found.Lost.IsZero():
			w.t.Errorf("%s was made without knowing of %s, which won, and nobody says so", g, final.Generation)
		default:
			lost++
		}
	}
	return lost
}

// noFlaps wants that nobody took a backend for down that was up all the time.
func (w *world) noFlaps() {
	w.t.Helper()
	last := w.backends[len(w.backends)-1].Listener.Addr().String()
	for _, p := range w.nodes {
		p.mu.Lock()
		for _, c := range p.changes {
			if c.ID.Address != last && c.To == lb.Down {
				w.t.Errorf("%s took %s for down: %s", p.name, c.ID, c.Detail)
			}
		}
		p.mu.Unlock()
	}
}

// idleFleet is workers that build everything and do nothing.
type idleFleet struct {
	mu      sync.Mutex // guards sockets
	sockets []lb.SteeredBind
	changed chan struct{}
	events  chan lb.Event
}

func newIdleFleet() *idleFleet {
	return &idleFleet{changed: make(chan struct{}, 1), events: make(chan lb.Event)}
}

func (f *idleFleet) Apply(_ context.Context, u node.Update) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sockets = nil
	for _, l := range u.Config.Listeners {
		f.sockets = append(f.sockets, lb.SteeredBind{Bind: l.Bind, Sockets: []int{3}, Live: []bool{true}})
	}
	return u.Persist()
}

func (f *idleFleet) Sockets() []lb.SteeredBind {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sockets
}

func (f *idleFleet) Adopted() map[string][]byte                          { return nil }
func (f *idleFleet) SetState(lb.State)                                   {}
func (f *idleFleet) Upgrade(context.Context, string) error               { return nil }
func (f *idleFleet) OrderWorker(context.Context, string, bool) error     { return nil }
func (f *idleFleet) CloseListener(context.Context, string) (bool, error) { return false, nil }
func (f *idleFleet) OpenListener(context.Context, string) error          { return nil }
func (f *idleFleet) Stats() lb.Stats                                     { return lb.Stats{} }
func (f *idleFleet) Crew() []node.Worker                                 { return nil }
func (f *idleFleet) Notes() []string                                     { return nil }
func (f *idleFleet) Crashes() []lb.Crash                                 { return nil }
func (f *idleFleet) Refused() []lb.Refusal                               { return nil }
func (f *idleFleet) Changed() <-chan struct{}                            { return f.changed }
func (f *idleFleet) Events() <-chan lb.Event                             { return f.events }
