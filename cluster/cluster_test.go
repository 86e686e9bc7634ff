package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cirque-lb/lb"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// calm is a cluster that talks fast and takes nobody for dead: on a busy machine
// one that is slow is not.
var calm = timing{
	probe: time.Hour, probeTimeout: time.Minute,
	gossip: 10 * time.Millisecond, pushPull: 200 * time.Millisecond,
	stream: 5 * time.Second, redial: 50 * time.Millisecond, reclaim: 50 * time.Millisecond,
}

// brisk is for tests of deaths: one is found within a second. Who is slow may be
// taken for dead, and comes back.
var brisk = func() timing {
	t := calm
	t.probe, t.probeTimeout, t.stream = 60*time.Millisecond, 30*time.Millisecond, 2*time.Second
	return t
}()

// network is a set of clusters in this process whose links can be cut.
type network struct {
	t    *testing.T
	keys []Key
	name string
	dir  string // of the nodes' identities
	pace timing

	mu    sync.Mutex
	sides map[netip.AddrPort]int // nodes talk within their side only

	nodes map[string]*node
}

type node struct {
	*Cluster
	stop func()
}

func newNetwork(t *testing.T) *network {
	t.Parallel() // they mostly wait
	n := &network{t: t, name: "test", dir: t.TempDir(), pace: calm, keys: []Key{{1, 2, 3}}, sides: map[netip.AddrPort]int{}, nodes: map[string]*node{}}
	t.Cleanup(func() {
		for _, node := range n.nodes {
			node.stop()
		}
	})
	return n
}

func self(name string) lb.Member {
	return lb.Member{Name: name, Boot: lb.BootID{name[0]}, Address: netip.AddrFrom4([4]byte{10, 0, 0, name[0]}), Weight: 4}
}

// start runs a node that joins the others and says that it is ready.
func (n *network) start(name string, change ...func(*Options)) *node {
	n.t.Helper()
	o := Options{Name: n.name, Self: self(name), Bind: loopback, Keys: n.keys, IdentityFile: filepath.Join(n.dir, name+".identity")}
	for _, other := range n.nodes {
		o.Join = append(o.Join, other.Address().String())
	}
	for _, c := range change {
		c(&o)
	}
	c, err := open(o, n.pace, n.cut)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	node := &node{c, sync.OnceFunc(func() {
		cancel()
		if err := c.Close(); err != nil {
			n.t.Error(err)
		}
		<-done
	})}
	n.nodes[name] = node
	c.SetReady(true)
	return node
}

// kill ends a node without a good-bye.
func (n *network) kill(name string) {
	n.nodes[name].stop()
	delete(n.nodes, name)
}

// leave has a node say good-bye, which a busy machine may hear late.
func (n *network) leave(name string) {
	n.t.Helper()
	n.eventually("the good-bye", func(c *Cluster) bool { return c.Leave(n.t.Context()) == nil }, name)
}

// split puts the named nodes on a side of their own.
func (n *network) split(names ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.sides)
	for _, name := range names {
		n.sides[n.nodes[name].Address()] = 1
	}
}

func (n *network) reachable(from, to netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sides[from] == n.sides[to]
}

// eventually waits until every named node sees what is wanted.
func (n *network) eventually(what string, holds func(c *Cluster) bool, names ...string) {
	n.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for _, name := range names {
		c := n.nodes[name].Cluster
		for !holds(c) {
			select {
			case <-c.Changed():
			case <-time.After(20 * time.Millisecond): // counters change without a token
			case <-deadline.C:
				n.t.Fatalf("%s: %s does not hold on %s: epochs %s, members %+v, counters %+v", n.t.Name(), what, name, lines(c.Epochs()), c.Members(), c.Counters())
			}
		}
	}
}

// agree waits until the named nodes have the same epochs, of which the current
// one has the wanted members ("a=4 b=0").
func (n *network) agree(members string, names ...string) {
	n.t.Helper()
	n.eventually("current "+members, func(c *Cluster) bool {
		return current(c) == members && slices.EqualFunc(c.Epochs(), n.nodes[names[0]].Epochs(), equalEpochs)
	}, append(names, names...)...) // twice: the first may have moved on meanwhile
}

func current(c *Cluster) string {
	if len(c.Epochs()) == 0 {
		return ""
	}
	_, members, _ := strings.Cut(describe(c.Epochs()[0]), ": ")
	return members
}

func lines(epochs []lb.Epoch) string {
	var all []string
	for _, e := range epochs {
		all = append(all, describe(e))
	}
	return strings.Join(all, "; ")
}

func TestNodesThatJoinAgree(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	n.agree("a=4", "a")
	n.start("b")
	n.start("c")
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	n.eventually("equal views in Members", func(c *Cluster) bool {
		for _, m := range c.Members() {
			if m.View != lb.View(c.Epochs()) || m.State != Alive || !m.Ready || !m.Listed {
				return false
			}
		}
		return len(c.Members()) == 3
	}, "a", "b", "c")
}

func TestFiveNodesThatStartAtOnceAgree(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	for _, name := range []string{"b", "c", "d", "e"} {
		n.start(name)
	}
	n.agree("a=4 b=4 c=4 d=4 e=4", "a", "b", "c", "d", "e")
}

func TestANodeThatLeavesIsOutAtOnceAndStaysInThePast(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	n.start("b")
	n.start("c")
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	n.leave("b")
	n.kill("b")
	n.agree("a=4 c=4", "a", "c")
	n.eventually("b has left", func(c *Cluster) bool { return state(c, "b") == Left }, "a", "c")
	if !strings.Contains(lines(n.nodes["a"].Epochs()), "a=4 b=4 c=4") {
		t.Errorf("the epoch with b is gone: %s", lines(n.nodes["a"].Epochs()))
	}
	n.start("b")
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	n.eventually("b is alive", func(c *Cluster) bool { return state(c, "b") == Alive }, "a", "c")
}

func TestADeadNodeIsTakenOutAndComesBack(t *testing.T) {
	n := newNetwork(t)
	n.pace = brisk
	n.start("a")
	n.start("b")
	b := n.start("c").Address()
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	n.kill("c")
	n.agree("a=4 b=4", "a", "b")
	n.eventually("c is dead", func(c *Cluster) bool { return state(c, "c") == Dead }, "a", "b")
	n.start("c", func(o *Options) { o.Bind = b })
	n.agree("a=4 b=4 c=4", "a", "b", "c")
}

func TestADeadNodesNameMayComeBackElsewhere(t *testing.T) {
	n := newNetwork(t)
	n.pace = brisk
	n.start("a")
	n.start("b")
	n.agree("a=4 b=4", "a", "b")
	n.kill("b")
	n.agree("a=4", "a")
	n.start("b", func(o *Options) { o.Self.Boot = lb.BootID{99}; o.IdentityFile = "" })
	n.agree("a=4 b=4", "a", "b")
	if got := n.nodes["a"].Epochs()[0].Members[1].Boot; got != (lb.BootID{99}) {
		t.Errorf("boot id of b: got %v", got)
	}
}

func TestADrainIsMintedByTheNodeConcerned(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	n.start("b")
	n.start("c")
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	n.nodes["b"].SetWeight(0)
	n.agree("a=4 b=0 c=4", "a", "b", "c")
	if e := n.nodes["c"].Epochs()[0]; e.Origin != "b" {
		t.Errorf("minted by %s, want b", e.Origin)
	}
	n.nodes["b"].SetWeight(4)
	n.agree("a=4 b=4 c=4", "a", "b", "c")
}

func TestAPartitionHealsAndKeepsBothPasts(t *testing.T) {
	n := newNetwork(t)
	n.pace = brisk
	for _, name := range []string{"a", "b", "c"} {
		n.start(name)
	}
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	n.split("c")
	n.agree("a=4 b=4", "a", "b")
	n.agree("c=4", "c")
	n.split()
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	past := lines(n.nodes["b"].Epochs())
	for _, want := range []string{": a=4 b=4;", ": c=4;"} {
		if !strings.Contains(past, want) {
			t.Errorf("the heal lost %q: %s", want, past)
		}
	}
}

func TestARestartAloneKeepsTheEpochs(t *testing.T) {
	dir := t.TempDir() // before the network: it is removed after the nodes stopped
	n := newNetwork(t)
	file := func(o *Options) { o.StateFile = filepath.Join(dir, o.Self.Name) }
	var saved Options
	n.start("a", file, func(o *Options) { saved = *o })
	n.start("b")
	n.agree("a=4 b=4", "a", "b")
	before := n.nodes["a"].Epochs()
	n.eventually("saved", func(c *Cluster) bool {
		got, _ := readSaved(saved.StateFile, "test")
		return slices.EqualFunc(got.Epochs, before, equalEpochs)
	}, "a")
	n.kill("a")
	n.kill("b")
	a := n.start("a", func(o *Options) { *o = saved })
	n.eventually("synced", (*Cluster).Synced, "a")
	if !slices.EqualFunc(a.Epochs(), before, equalEpochs) {
		t.Errorf("after the restart: got %s, want %s", lines(a.Epochs()), lines(before))
	}
}

func TestAWrongKeyIsRefusedAndCounted(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	n.agree("a=4", "a")
	n.start("b", func(o *Options) { o.Keys = []Key{{9}} })
	n.eventually("refusals", func(c *Cluster) bool { return c.Counters().WrongKey > 0 }, "a")
	n.eventually("alone", func(c *Cluster) bool { return current(c) == "b=4" && c.Counters().DialsFailed > 0 }, "b")
	n.start("c", func(o *Options) { o.Keys = nil; o.Join = []string{n.nodes["a"].Address().String()} })
	before := n.nodes["a"].Counters().WrongKey
	n.eventually("refusals of clear text", func(c *Cluster) bool { return c.Counters().WrongKey > before }, "a")
	n.agree("a=4", "a")
	if m := n.nodes["a"].Members(); len(m) != 1 {
		t.Errorf("members: %+v", m)
	}
}

func TestAWrongClusterNameIsRefusedAndCounted(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	n.start("b", func(o *Options) { o.Name = "other" })
	n.eventually("refusals", func(c *Cluster) bool { return c.Counters().WrongName > 0 }, "a")
	n.eventually("alone", func(c *Cluster) bool { return current(c) == "b=4" }, "b")
	n.agree("a=4", "a")
}

// TestKeysRotateWithoutALoss restarts node after node with the next content of
// key_file: nobody takes another seed, and no epoch is minted.
func TestKeysRotateWithoutALoss(t *testing.T) {
	older, newer := Key{1}, Key{2}
	dir := t.TempDir()
	n := newNetwork(t)
	n.keys = []Key{older}
	file := func(o *Options) { o.StateFile = filepath.Join(dir, o.Self.Name) }
	for _, name := range []string{"a", "b", "c"} {
		n.start(name, file)
	}
	n.agree("a=4 b=4 c=4", "a", "b", "c")
	seed, epochs := n.nodes["a"].Seed(), n.nodes["a"].Epochs()
	for _, keys := range [][]Key{{older, newer}, {newer, older}, {newer}} {
		n.keys = keys
		for _, name := range []string{"a", "b", "c"} {
			at := n.nodes[name].Address()
			n.kill(name)
			n.start(name, file, func(o *Options) { o.Bind = at })
			n.eventually("synced", (*Cluster).Synced, name)
			n.agree("a=4 b=4 c=4", "a", "b", "c")
			for _, c := range n.nodes {
				if c.Seed() != seed || !slices.EqualFunc(c.Epochs(), epochs, equalEpochs) {
					t.Fatalf("keys %v: seed %x, was %x; epochs %s, were %s", keys, c.Seed(), seed, lines(c.Epochs()), lines(epochs))
				}
			}
		}
	}
	d := n.start("d")
	n.agree("a=4 b=4 c=4 d=4", "a", "b", "c", "d")
	if d.Seed() != seed || len(d.Tags()) != 1 {
		t.Errorf("a new node has seed %x and tags %x, want %x", d.Seed(), d.Tags(), seed)
	}
}

func TestAStrangersMessagesAreCountedOnly(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a")
	n.agree("a=4", "a")
	for _, message := range []string{"", "x", "a", "a{", "q[]", "e{}", `e[{"counter":1,"origin":"z","members":[{"name":"b"},{"name":"a"}]}]`, `e[{"counter":18446744073709551615,"origin":"z"}]`} {
		a.gossip.NotifyMsg([]byte(message))
	}
	n.agree("a=4", "a")
	if got := a.Counters(); got.Malformed != 6 || got.Unknown != 1 {
		t.Errorf("got %d malformed and %d unknown, want 6 and 1", got.Malformed, got.Unknown)
	}
}

func TestASeedThatCannotBeJoinedIsToldOf(t *testing.T) {
	n := newNetwork(t)
	n.start("a")
	n.agree("a=4", "a")
	told := make(chan lb.Event, 256)
	hear := func(o *Options) { o.Notify = func(e lb.Event) { told <- e } }
	n.start("b", hear, func(o *Options) { o.Keys = []Key{{9}} })
	n.start("c", hear, func(o *Options) { o.Join = []string{"127.0.0.1:1"} })
	n.start("d", hear, func(o *Options) { o.Name = "other"; o.Join = []string{n.nodes["a"].Address().String()} })
	wanted := map[string]bool{ // the suffix of a detail
		"no installed keys could decrypt the message":                   true,
		"connection refused":                                            true,
		"it hung up on us; does it have the same cluster name and key?": true,
	}
	var heard []string
	for len(wanted) > 0 {
		select {
		case e := <-told:
			heard = append(heard, e.Kind+" "+e.Detail)
			for want := range wanted {
				if e.Kind == "seed.unreachable" && strings.HasSuffix(e.Detail, want+" (time 1)") {
					delete(wanted, want)
				}
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nobody says %v; heard %q", wanted, heard)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	good := Options{Name: "c", Self: self("a"), Bind: loopback}
	for _, test := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Bind = netip.MustParseAddrPort("192.0.2.1:7946") }, "192.0.2.1:7946 is not a loopback address and there is no cluster.key_file"},
		{func(o *Options) { o.Bind = netip.MustParseAddrPort("0.0.0.0:0") }, "no cluster.key_file"},
		{func(o *Options) { o.Name = "" }, "cluster name"},
		{func(o *Options) { o.Self.Name = "" }, "node name"},
		{func(o *Options) { o.Self.Address = netip.Addr{} }, "set node.address"},
		{func(o *Options) { o.Bind = netip.MustParseAddrPort("192.0.2.1:7946"); o.Keys = []Key{{}} }, "open gossip of cluster c on 192.0.2.1:7946"},
	} {
		o := good
		test.change(&o)
		c, err := Open(o)
		if err == nil {
			c.Close()
		}
		if !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}

func state(c *Cluster, name string) MemberState {
	for _, m := range c.Members() {
		if m.Name == name {
			return m.State
		}
	}
	return ""
}
