package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
)

// diary is what the fakes were told, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := strings.Join(d.lines, "\n")
	d.lines = nil
	if text == "" {
		return ""
	}
	return text + "\n"
}

// fakeFleet is workers that build what they are told to refuse, or do not.
type fakeFleet struct {
	diary   *diary
	changed chan struct{}
	events  chan lb.Event

	mu      sync.Mutex // guards the fields below
	refuse  string     // the next Apply or Upgrade fails with it
	sockets []lb.SteeredBind

	listeners []*lb.Listener
	live      []bool
	stats     lb.Stats
	block     chan struct{} // Apply waits for it
	adopted   map[string][]byte
}

func newFakeFleet(d *diary) *fakeFleet {
	return &fakeFleet{diary: d, changed: make(chan struct{}, 1), events: make(chan lb.Event, 8), live: []bool{true, true}}
}

func (f *fakeFleet) Apply(ctx context.Context, u Update) error {
	f.mu.Lock()
	block := f.block
	f.mu.Unlock()
	if block != nil {
		<-block
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != "" {
		defer func() { f.refuse = "" }()
		err := errors.New(f.refuse)
		u.Built("1.0", 4711, time.Millisecond, err)
		return err
	}
	u.Built("1.0", 4711, time.Millisecond, nil)
	if err := u.Persist(); err != nil {
		return err
	}
	before := f.sockets
	f.sockets, f.listeners = nil, u.Config.Listeners
	for i, l := range u.Config.Listeners {
		if slices.Contains(u.Drained, l.Name) && !slices.ContainsFunc(before, func(b lb.SteeredBind) bool { return b.Bind == l.Bind }) {
			continue
		}
		f.sockets = append(f.sockets, lb.SteeredBind{Bind: l.Bind, Sockets: []int{100 * (i + 1), 100*(i+1) + 1}, Live: slices.Clone(f.live)})
	}
	found, err := lb.DecodeFound(u.Files[lb.FoundFile])
	if err != nil {
		return err
	}
	files := len(u.Files)
	if found != nil {
		files--
	}
	f.diary.add("fleet: generation %d, %s, files %d", u.Generation, pools(u.Config), files)
	f.token()
	return nil
}

func pools(c *lb.Config) string {
	var all []string
	for _, p := range c.Pools {
		for _, b := range p.Backends {
			all = append(all, fmt.Sprintf("%s*%d", b.ID(p.Name), b.Weight))
		}
	}
	return strings.Join(all, " ")
}

func (f *fakeFleet) token() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeFleet) SetState(s lb.State) {
	var all []string
	for _, id := range sortedIDs(s.Health) {
		all = append(all, fmt.Sprintf("%s=%s", id, s.Health[id]))
	}
	for _, id := range sortedIDs(s.Admin) {
		a := s.Admin[id]
		all = append(all, fmt.Sprintf("%s drain=%v disable=%v", id, a.Drain, a.Disable))
	}
	if s.Draining {
		all = append(all, "draining")
	}
	if s.Cut {
		all = append(all, "cut")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Listeners)) {
		all = append(all, fmt.Sprintf("listener %s cut=%v", name, s.Listeners[name]))
	}
	f.diary.add("fleet: state [%s]", strings.Join(all, ", "))
}

func (f *fakeFleet) OrderWorker(_ context.Context, name string, drain bool) error {
	switch name {
	case "1.0":
		f.diary.add("fleet: drain worker %s %v", name, drain)
		return nil
	case "1.1":
		return ErrLastWorker
	}
	return ErrNoWorker
}

func (f *fakeFleet) CloseListener(_ context.Context, name string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := len(f.sockets)
	for _, l := range f.listeners {
		if l.Name == name {
			f.sockets = slices.DeleteFunc(slices.Clone(f.sockets), func(b lb.SteeredBind) bool { return b.Bind == l.Bind })
		}
	}
	if closed := len(f.sockets) < had; closed {
		f.diary.add("fleet: close %s", name)
		return true, nil
	}
	return false, nil
}

func (f *fakeFleet) OpenListener(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != "" {
		defer func() { f.refuse = "" }()
		return errors.New(f.refuse)
	}
	for i, l := range f.listeners {
		if l.Name == name && !slices.ContainsFunc(f.sockets, func(b lb.SteeredBind) bool { return b.Bind == l.Bind }) {
			f.sockets = append(slices.Clone(f.sockets), lb.SteeredBind{Bind: l.Bind, Sockets: []int{100 * (i + 1), 100*(i+1) + 1}, Live: slices.Clone(f.live)})
			f.diary.add("fleet: open %s", name)
		}
	}
	return nil
}

func (f *fakeFleet) Upgrade(ctx context.Context, binary string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != "" {
		defer func() { f.refuse = "" }()
		return errors.New(f.refuse)
	}
	f.diary.add("fleet: upgrade %q", binary)
	return nil
}

func (f *fakeFleet) Stats() lb.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *fakeFleet) Crashes() []lb.Crash { return nil }

func (f *fakeFleet) Refused() []lb.Refusal { return nil }

func (f *fakeFleet) Crew() []Worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := "ready"
	if !slices.Contains(f.live, true) {
		state = "down"
	}
	return []Worker{{Crew: 1, Index: 0, PID: 4711, State: state, Ready: state == "ready", Slots: []int{0, 1}}}
}

func (f *fakeFleet) Sockets() []lb.SteeredBind {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sockets)
}

func (f *fakeFleet) Adopted() map[string][]byte { return f.adopted }

func (f *fakeFleet) Notes() []string          { return nil }
func (f *fakeFleet) Changed() <-chan struct{} { return f.changed }
func (f *fakeFleet) Events() <-chan lb.Event  { return f.events }
func (f *fakeFleet) set(change func()) {
	f.mu.Lock()
	change()
	for i := range f.sockets {
		f.sockets[i].Live = slices.Clone(f.live)
	}
	f.mu.Unlock()
	f.token()
}

// fakeMonitor says what it was told to say.
type fakeMonitor struct {
	diary  *diary
	mu     sync.Mutex // guards health
	health map[lb.BackendID]lb.Health
}

func (m *fakeMonitor) Update(t []Target) { m.diary.add("monitor: %d targets", len(t)) }

func (m *fakeMonitor) Health() map[lb.BackendID]lb.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[lb.BackendID]lb.Health{}
	for id, h := range m.health {
		out[id] = h
	}
	return out
}

func (m *fakeMonitor) Report() []Report { return nil }

func (m *fakeMonitor) set(id lb.BackendID, h lb.Health) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health[id] = h
}

// fakeDiscovery finds what it was told to.
type fakeDiscovery struct {
	diary   *diary
	changed chan struct{}

	mu       sync.Mutex // guards the fields below
	found    map[string][]lb.Backend
	failing  map[string]error
	followed []lb.Discovery
}

func (d *fakeDiscovery) Recall(found map[string][]lb.Backend) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, backends := range found {
		if d.found[name] == nil {
			d.found[name] = backends
		}
	}
}

func (d *fakeDiscovery) Follow(all []lb.Discovery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.followed = all
}

func (d *fakeDiscovery) Await(ctx context.Context, all []lb.Discovery) {
	for _, s := range all {
		d.diary.add("discovery: asks %s", s)
		d.mu.Lock()
		asked := d.found[s.String()] != nil || d.failing[s.String()] != nil
		d.mu.Unlock()
		if !asked {
			<-ctx.Done()
		}
	}
}

func (d *fakeDiscovery) Found(s lb.Discovery) []lb.Backend {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.found[s.String()]
}

func (d *fakeDiscovery) Changed() <-chan struct{} { return d.changed }

func (d *fakeDiscovery) Sources() []Source {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Source
	for _, s := range d.followed {
		one := Source{Name: s.String(), Backends: len(d.found[s.String()]), Err: d.failing[s.String()]}
		if one.Err != nil {
			one.Failing = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		all = append(all, one)
	}
	return all
}

// say makes a source answer, or fail.
func (d *fakeDiscovery) say(name string, err error, addresses ...string) {
	d.mu.Lock()
	d.failing[name] = err
	if err == nil {
		d.found[name] = []lb.Backend{}
		for _, a := range addresses {
			d.found[name] = append(d.found[name], lb.Backend{Address: a, Weight: 1})
		}
	}
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// fakeDatapath notes what it was told, once; err is what Apply answers.
type fakeDatapath struct {
	diary *diary
	mu    sync.Mutex // guards the fields below
	err   error
	have  string
}

func (d *fakeDatapath) Apply(s lb.Steering) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		d.diary.add("datapath: error %v", d.err)
		return d.err
	}
	var live []string
	for _, b := range s.Binds {
		live = append(live, fmt.Sprintf("%s %v", b.Bind, b.Live))
	}
	// The same Steering twice writes nothing the second time.
	if want := fmt.Sprintf("vips %v binds [%s] epochs %d", s.VIPs, strings.Join(live, ", "), len(s.Epochs)); want != d.have {
		d.have = want
		d.diary.add("datapath: %s", want)
	}
	return nil
}

func (d *fakeDatapath) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *fakeDatapath) Fastpath() Fastpath { return Fastpath{Mode: "native"} }
func (d *fakeDatapath) Explain(lb.Tuple) Path {
	return Path{Row: 7, Chain: []string{"edge-1"}, Slot: 1}
}
func (d *fakeDatapath) Samples() []lb.Sample { return nil }
func (d *fakeDatapath) Silent() []netip.Addr { return nil }

func (d *fakeDatapath) Turning() []netip.Addr { return nil }

func (d *fakeDatapath) Holdings() ([]Holding, error) { return nil, nil }
func (d *fakeDatapath) Destroy(uint64) (int, error)  { return 0, nil }

// fakeCluster is a cluster of two.
type fakeCluster struct {
	diary   *diary
	changed chan struct{}
	mu      sync.Mutex // guards what follows
	epochs  []lb.Epoch
	has     Document
	losses  []Document
	said    map[string][]byte // of the other one, by part
	saying  map[string][]byte // of this one
}

func (c *fakeCluster) Say(part string, body []byte, _ bool) error {
	if part == vipsPart || part == needsPart {
		return nil // vips_test.go and retain_test.go
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.diary.add("cluster: %s %s", part, body)
	c.saying[part] = body
	return nil
}

func (c *fakeCluster) Said(part string) []Saying {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []Saying{{Member: "edge-1", Alive: true, Body: c.saying[part]}, {Member: "edge-2", Alive: true, Body: c.said[part]}}
}

func (c *fakeCluster) Seal(d Document) string { return "sealed " + d.Generation.String() }

func (c *fakeCluster) Offer(seal string, text []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.diary.add("cluster: offered %s, %d bytes", seal, len(text))
	var g Generation
	if err := g.UnmarshalText([]byte(strings.TrimPrefix(seal, "sealed "))); err != nil {
		return err
	}
	if g.Compare(c.has.Generation) > 0 {
		c.has = Document{Generation: g, Text: text, Seal: seal}
	}
	return nil
}

func (c *fakeCluster) Document() (Document, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.has, !c.has.Generation.IsZero()
}

func (c *fakeCluster) Losses() []Document {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.losses
	c.losses = nil
	return all
}

func (c *fakeCluster) Counter() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.has.Generation.Counter
}

// edit is an edit that edge-2 makes: after the one that is here, or without
// knowing of it.
func (c *fakeCluster) edit(g Generation, text string, apart bool) {
	c.mu.Lock()
	d := Document{Generation: g, By: "uid 0", Action: "apply", Time: time.Now().UTC(), Text: []byte(text), Seal: "sealed " + g.String()}
	switch had := c.has; {
	case apart && g.Compare(had.Generation) < 0:
		c.losses = append(c.losses, d)
	case apart:
		c.losses = append(c.losses, had)
		fallthrough
	default:
		c.has = d
	}
	c.mu.Unlock()
	c.changed <- struct{}{}
}

func (c *fakeCluster) SetReady(r bool)          { c.diary.add("cluster: ready %v", r) }
func (c *fakeCluster) SetWeight(w int)          { c.diary.add("cluster: weight %d", w) }
func (c *fakeCluster) Forget([]uint64)          {}
func (c *fakeCluster) Changed() <-chan struct{} { return c.changed }
func (c *fakeCluster) Seed() [16]byte           { return [16]byte{1} }
func (c *fakeCluster) Tags() []uint32           { return []uint32{1} }
func (c *fakeCluster) Samples() []lb.Sample     { return nil }

func (c *fakeCluster) Epochs() []lb.Epoch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epochs
}

func (c *fakeCluster) Peers() []Peer {
	return []Peer{
		{Name: "edge-1", State: "alive", Self: true, Ready: true},
		{Name: "edge-2", State: "alive", Ready: true, Address: netip.MustParseAddr("10.0.0.12")},
	}
}
