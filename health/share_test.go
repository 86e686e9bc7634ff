package health

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cirque-lb/lb"
)

// cohort is nodes that share what they see, in a bubble of synthetic time. Each
// has its own farm, so that a backend may be out of one node's reach.
type cohort struct {
	nodes map[string]*cohortNode
	words map[string]map[string]Word // by member and part
	bytes int                        // said since the start, once per change
}

type cohortNode struct {
	*Monitor
	farm    *farm
	cut     bool
	changes []Change
	mu      sync.Mutex // guards changes
	stop    func()
}

func newCohort(t *testing.T, n int, targets []Target) *cohort {
	c := &cohort{nodes: map[string]*cohortNode{}, words: map[string]map[string]Word{}}
	for i := range n {
		node := &cohortNode{farm: newFarm()}
		node.Monitor = New(Options{Dial: node.farm.dial, Changed: func(change Change) {
			node.mu.Lock()
			defer node.mu.Unlock()
			node.changes = append(node.changes, change)
		}})
		for _, target := range targets {
			node.farm.set(target.ID.Address, 200)
		}
		node.Update(targets)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); node.Run(ctx) }()
		node.stop = func() { cancel(); <-done }
		c.nodes[fmt.Sprintf("edge-%d", i+1)] = node
	}
	return c
}

// run has the nodes exchange what they say every half second.
func (c *cohort) run(d time.Duration) {
	for range d / (500 * time.Millisecond) {
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		c.exchange()
	}
}

func (c *cohort) exchange() {
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		node := c.nodes[name]
		var heard []Word
		for member, parts := range c.words {
			if other := c.nodes[member]; other != nil && !other.cut && !node.cut || member == name {
				heard = slices.AppendSeq(heard, maps.Values(parts))
			}
		}
		for part, body := range node.Share(name, heard) {
			if c.words[name] == nil {
				c.words[name] = map[string]Word{}
			}
			old := c.words[name][part]
			if string(old.Body) != string(body) {
				c.bytes += len(body)
			}
			if string(old.Body) != string(body) || time.Since(old.Heard) > 10*time.Second {
				c.words[name][part] = Word{name, part, body, time.Now()}
			}
		}
	}
}

func (c *cohort) end() {
	for _, n := range c.nodes {
		n.stop()
	}
	time.Sleep(time.Second) // the farms end what they serve
	synctest.Wait()
}

func manyTargets(n int) []Target {
	all := make([]Target, n)
	for i := range all {
		all[i] = toProbe(fmt.Sprintf("10.0.%d.%d:80", i/250, i%250+1))
	}
	return all
}

func (c *cohort) health(name, address string) lb.Health {
	return c.nodes[name].State()[lb.BackendID{Pool: "app", Address: address}]
}

func TestFiveNodesProbeAllAndEachGoesByItsOwnResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCohort(t, 5, manyTargets(20))
		defer c.end()
		c.run(5 * time.Second)
		for name, n := range c.nodes {
			if probing, _ := n.load(); probing != 20 {
				t.Errorf("%s probes %d backends, want all 20", name, probing)
			}
		}
		const lonely = "10.0.0.3:80"
		c.nodes["edge-2"].farm.set(lonely, 0)
		c.run(10 * time.Second)
		for _, d := range c.nodes["edge-2"].Details() {
			if want := d.ID.Address == lonely; d.Alone != want || want && (d.Health != lb.Down || d.OthersUp != 4) {
				t.Errorf("edge-2 on %s: %+v", d.ID, d)
			}
		}
		if h := c.health("edge-1", lonely); h != lb.Up {
			t.Errorf("edge-1 goes by edge-2's results: %s is %s", lonely, h)
		}
	})
}

func TestAboveFiveNodesThreeProbeAndAllAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		targets := manyTargets(200)
		c := newCohort(t, 9, targets)
		defer c.end()
		c.run(10 * time.Second)
		probers, before := map[lb.BackendID]int{}, map[string]int{}
		for name, n := range c.nodes {
			for _, d := range n.Details() {
				if !d.Heard {
					probers[d.ID]++
				}
			}
			before[name] = len(n.changes)
		}
		for _, target := range targets {
			if probers[target.ID] != 3 {
				t.Errorf("%s has %d probers, want 3", target.ID, probers[target.ID])
			}
		}
		const gone = "10.0.0.7:80"
		for _, n := range c.nodes {
			n.farm.set(gone, 0)
		}
		c.run(8 * time.Second)
		for name := range c.nodes {
			if h := c.health(name, gone); h != lb.Down {
				t.Errorf("%s finds %s %s", name, gone, h)
			}
		}
		for _, n := range c.nodes {
			n.farm.set(gone, 200)
		}
		c.run(8 * time.Second)
		for name, n := range c.nodes {
			if h := c.health(name, gone); h != lb.Up {
				t.Errorf("%s finds %s %s", name, gone, h)
			}
			if got := len(n.changes) - before[name]; got != 2 {
				t.Errorf("%s told %d changes, want down and up: %v", name, got, n.changes[before[name]:])
			}
		}
	})
}

func TestWithoutAFreshWordANodeProbesAndFlapsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCohort(t, 7, manyTargets(50))
		defer c.end()
		c.run(10 * time.Second)
		was := map[string]int{}
		for name, n := range c.nodes {
			was[name] = len(n.changes)
		}
		for round := range 6 { // cut off and joined again
			c.nodes["edge-3"].cut = round%2 == 0
			c.run(7 * time.Second)
			probing, _ := c.nodes["edge-3"].load()
			if cut := round%2 == 0; cut && probing != 50 || !cut && probing == 50 {
				t.Errorf("cut off: %v; edge-3 probes %d of 50 backends", cut, probing)
			}
		}
		for name, n := range c.nodes {
			if got := n.changes[was[name]:]; len(got) > 0 {
				t.Errorf("%s: every backend was up all the time: %v", name, got)
			}
		}
	})
}

func TestAMinorityOfProbersDecidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCohort(t, 7, manyTargets(10))
		defer c.end()
		c.run(10 * time.Second)
		const one = "10.0.0.5:80"
		blind := 0
		for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
			for _, d := range c.nodes[name].Details() {
				if d.ID.Address == one && !d.Heard && blind == 0 {
					blind++
					c.nodes[name].farm.set(one, 0)
				}
			}
		}
		c.run(10 * time.Second)
		down := 0
		for name := range c.nodes {
			if c.health(name, one) == lb.Down {
				down++
			}
		}
		if down != 1 {
			t.Errorf("%d nodes find it down, want the one that probes in vain", down)
		}
	})
}

func TestARestartBeginsWithWhatWasKnown(t *testing.T) {
	run(t, 0, func(f *farm, m *Monitor, changes func() []Change) {
		f.set("a:80", 0)
		f.set("b:80", 200)
		m.Update([]Target{toProbe("a:80"), toProbe("b:80")})
		time.Sleep(10 * time.Second)
		next := New(Options{Dial: f.dial})
		if err := next.Recall(m.Remember()); err != nil {
			t.Fatal(err)
		}
		next.Update([]Target{toProbe("a:80"), toProbe("b:80"), toProbe("c:80")})
		got := next.State()
		for address, want := range map[string]lb.Health{"a:80": lb.Down, "b:80": lb.Up, "c:80": lb.Unknown} {
			if h := got[lb.BackendID{Pool: "app", Address: address}]; h != want {
				t.Errorf("%s is %s, want %s", address, h, want)
			}
		}
		if err := m.Recall([]byte("torn")); err == nil {
			t.Error("a torn memory was taken")
		}
	})
}

func TestASuspectIsProbedAtOnceAndOften(t *testing.T) {
	run(t, 0, func(f *farm, m *Monitor, changes func() []Change) {
		f.set("a:80", 200)
		m.Update([]Target{toProbe("a:80")})
		time.Sleep(10 * time.Second)
		before := f.count("a:80")
		m.Suspect(lb.BackendID{Pool: "app", Address: "a:80"})
		time.Sleep(1600 * time.Millisecond)
		if got := f.count("a:80") - before; got < 3 {
			t.Errorf("%d probes within 1.6 s, want 3 at least", got)
		}
	})
}

var manyBackends = flag.Int("backends", 1000, "how many backends TestManyBackends has; 10000 for the numbers in ARCHITECTURE.md")

// TestManyBackends prints what health costs five and nine nodes, and bounds it.
func TestManyBackends(t *testing.T) {
	backends := *manyBackends
	for _, nodes := range []int{5, 9} {
		synctest.Test(t, func(t *testing.T) {
			c := newCohort(t, nodes, manyTargets(backends))
			defer c.end()
			c.run(time.Second)
			quiet := c.bytes
			c.run(time.Second)
			dialled := func() (n int) {
				for _, node := range c.nodes {
					node.farm.mu.Lock()
					for _, d := range node.farm.dialled {
						n += d
					}
					node.farm.mu.Unlock()
				}
				return n
			}
			cpu, probes, said := cpuTime(), dialled(), c.bytes
			c.run(2 * time.Second)
			probes, cpu, said = dialled()-probes, cpuTime()-cpu, c.bytes-said
			rate := float64(probes) / 2 / float64(nodes)
			t.Logf("%d nodes, %d backends every 2 s: %.0f probes/s and node, %v of CPU a probe (both sides), %.2f cores a node; said at first %d bytes a node, then %d bytes in 2 s",
				nodes, backends, rate, (cpu / time.Duration(probes)).Round(time.Microsecond), cpu.Seconds()/2/float64(nodes), quiet/nodes, said)
			want := float64(backends) / 2
			if nodes > everybody {
				want *= float64(probers) / float64(nodes)
			}
			if rate > 1.25*want {
				t.Errorf("%.0f probes/s and node, want about %.0f", rate, want)
			}
			if said > 0 {
				t.Errorf("%d bytes said although nothing changed", said)
			}
			for _, n := range c.nodes {
				for i := range backends {
					if i%10 == 0 {
						n.farm.set(fmt.Sprintf("10.0.%d.%d:80", i/250, i%250+1), 0)
					}
				}
			}
			said = c.bytes
			c.run(4 * time.Second)
			said = c.bytes - said
			t.Logf("%d nodes: %d of them die at once: %d bytes a node in all", nodes, backends/10, said/nodes)
			if bound := 4096 + backends*32; said/nodes > bound {
				t.Errorf("that is more than a bound of %d", bound)
			}
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
