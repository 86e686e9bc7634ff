package cluster

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb"
)

var rewrite = flag.Bool("rewrite", false, "write what the transcripts should say")

// world is a set of views without a network: what they tell each other and
// when is up to the test.
type world struct {
	views map[string]*view
	now   time.Time
	out   strings.Builder
}

func newWorld() *world {
	return &world{views: map[string]*view{}, now: time.Unix(1e9, 0)}
}

func (w *world) names() []string { return slices.Sorted(maps.Keys(w.views)) }

// settle lets one node mint what the rules ask for now.
func (w *world) settle(name string) {
	for {
		e, minted, _ := w.views[name].mint(w.now)
		if !minted {
			return
		}
		fmt.Fprintf(&w.out, "  %s mints %s\n", name, describe(e))
	}
}

// exchange is a push/pull: both learn what the other is and which epochs it has.
func (w *world) exchange(a, b string) {
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		w.tell(pair[0], pair[1])
	}
	w.settle(a)
	w.settle(b)
	w.views[a].merge(w.views[b].epochs) // what was minted meanwhile
	w.settle(a)
	w.views[b].merge(w.views[a].epochs)
	w.settle(b)
}

func (w *world) tell(from, to string) {
	v := w.views[from]
	w.views[to].hear(peer{Member: v.self, state: Alive, ready: v.ready && !v.leaving, since: w.now})
	w.views[to].synced = true
	w.views[to].merge(v.epochs)
}

// everybody exchanges with everybody until nothing is new.
func (w *world) everybody(names []string) {
	for range 2 {
		for i, a := range names {
			for _, b := range names[i+1:] {
				w.exchange(a, b)
			}
		}
	}
}

func (w *world) find(at, name string, s MemberState) {
	p := w.views[at].peers[name]
	p.state, p.since = s, w.now
	p.Name = name
	w.views[at].hear(p)
	w.settle(at)
}

// do executes one line of a transcript.
func (w *world) do(t *testing.T, line string) {
	f := strings.Fields(line)
	view := func(i int) *view { return w.views[f[i]] }
	switch f[0] {
	case "start": // start NAME...: new lives that know nobody yet
		for _, name := range f[1:] {
			w.views[name] = newView(self(name))
		}
	case "restart": // the daemon, not the datapath: same boot id, epochs from its file
		old := view(1)
		w.views[f[1]] = newView(old.self)
		view(1).merge(old.epochs)
	case "reboot":
		w.views[f[1]] = newView(self(f[1]))
		view(1).self.Boot[7]++
	case "alone": // nobody answers
		view(1).synced = true
		w.settle(f[1])
	case "ready", "unready":
		for _, name := range f[1:] {
			w.views[name].ready = f[0] == "ready"
			w.settle(name)
		}
	case "weight":
		view(1).self.Weight, _ = strconv.Atoi(f[2])
		w.settle(f[1])
	case "leave":
		view(1).leaving = true
		w.settle(f[1])
	case "meet": // meet NAME...: exchange until nothing is new
		w.everybody(f[1:])
	case "learn": // learn A B: A gets B's epochs, but does not hear that B is alive
		view(1).merge(view(2).epochs)
		w.settle(f[1])
	case "dead": // dead AT NAME: AT finds NAME dead
		w.find(f[1], f[2], Dead)
	case "wait":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(d)
		for _, name := range w.names() {
			w.settle(name)
		}
	case "list":
		for _, name := range f[1:] {
			fmt.Fprintf(&w.out, "  %s: %s\n", name, lines(w.views[name].epochs))
		}
	default:
		t.Fatalf("unknown command %q", line)
	}
}

// TestTranscripts plays testdata/*.txt: a line is a command, an indented line
// is what it must show. -rewrite writes what it does show.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld()
			lines := bufio.NewScanner(strings.NewReader(string(want)))
			for lines.Scan() {
				line := lines.Text()
				if strings.HasPrefix(line, "  ") {
					continue
				}
				w.out.WriteString(line + "\n")
				if line != "" && line[0] != '#' {
					w.do(t, line)
				}
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(w.out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got := w.out.String(); got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestAnyHistoryEndsInAgreement: whatever joins, leaves, dies, drains and
// splits in whatever order, once everybody talks to everybody the lists are
// equal, the current epoch is who is here and ready, and nobody mints again.
func TestAnyHistoryEndsInAgreement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		names := []string{"a", "b", "c", "d"}[:rapid.IntRange(1, 4).Draw(t, "nodes")]
		for _, name := range names {
			w.views[name] = newView(self(name))
		}
		name := rapid.SampledFrom(names)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			w.step(t, name)
		}
		for _, n := range names {
			w.views[n].synced, w.views[n].ready = true, true
		}
		for range 4 { // more than enough for every budget, turn and patience
			w.now = w.now.Add(time.Minute)
			for _, n := range names {
				w.settle(n)
			}
			w.everybody(names)
		}
		w.checkAgreement(t, names)
	})
}

func (w *world) step(t *rapid.T, name *rapid.Generator[string]) {
	a, b := name.Draw(t, "a"), name.Draw(t, "b")
	v := w.views[a]
	switch rapid.IntRange(0, 9).Draw(t, "do") {
	case 0:
		v.ready = true
		w.settle(a)
	case 1:
		v.synced = true
		w.settle(a)
	case 2:
		v.self.Weight = rapid.IntRange(0, 4).Draw(t, "weight")
		w.settle(a)
	case 3:
		v.self.Boot[7]++ // a new host that knows nothing
		w.views[a] = newView(v.self)
	case 4:
		w.views[a] = newView(v.self) // a new daemon with its file
		w.views[a].merge(v.epochs)
	case 5:
		if a != b {
			w.find(a, b, Dead)
		}
	case 6:
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 12000).Draw(t, "ms")) * time.Millisecond)
		w.settle(a)
	default:
		if a != b {
			w.exchange(a, b)
		}
	}
	for _, v := range w.views {
		checkList(t, v.epochs)
	}
}

func checkList(t *rapid.T, epochs []lb.Epoch) {
	if len(epochs) > retained {
		t.Fatalf("%d epochs retained", len(epochs))
	}
	for i, e := range epochs {
		if err := valid(e); err != nil {
			t.Fatalf("epoch %s: %v", describe(e), err)
		}
		if i > 0 && epochs[i-1].Compare(e) <= 0 {
			t.Fatalf("not newest first: %s", lines(epochs))
		}
	}
}

func (w *world) checkAgreement(t *rapid.T, names []string) {
	first := w.views[names[0]].epochs
	for _, n := range names {
		if got := w.views[n].epochs; lb.View(got) != lb.View(first) || !slices.EqualFunc(got, first, equalEpochs) {
			t.Fatalf("%s has %s\n%s has %s", n, lines(got), names[0], lines(first))
		}
		if e, minted, again := w.views[n].mint(w.now); minted || !again.IsZero() {
			t.Fatalf("%s is not at rest: %s at %v", n, describe(e), again)
		}
		if i, listed := find(first[0].Members, n); !listed || first[0].Members[i] != w.views[n].self {
			t.Fatalf("%s is not as it wants to be in %s", n, describe(first[0]))
		}
	}
	if len(first[0].Members) != len(names) {
		t.Fatalf("strangers in %s", describe(first[0]))
	}
}

// TestTwoThatMeetHaveOneSeed: whatever they come with, and the one that knows
// the cluster's does not take a newcomer's.
func TestTwoThatMeetHaveOneSeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) *view {
			v := newView(self(name))
			v.seed[0], v.firm = rapid.Byte().Draw(t, "seed"), rapid.Bool().Draw(t, "firm")
			if v.firm {
				v.merge([]lb.Epoch{{Counter: rapid.Uint64Range(1, 3).Draw(t, "counter"), Origin: name, Members: []lb.Member{self(name)}}})
			}
			return v
		}
		a, b := draw("a"), draw("b")
		was := *a
		a.adopt(b.seed, b.firm, b.epochs)
		if b.adopt(was.seed, was.firm, was.epochs); a.seed != b.seed {
			t.Fatalf("%x and %x", a.seed, b.seed)
		}
		if was.firm && !b.firm && a.seed != was.seed {
			t.Fatal("the cluster took a newcomer's seed")
		}
	})
}

// TestMergeDoesNotDependOnOrder: any order and grouping of the same epochs,
// repeated or conflicting ones too, makes the same list.
func TestMergeDoesNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		epochs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) lb.Epoch {
			m := self("m")
			m.Weight = rapid.IntRange(0, 2).Draw(t, "weight")
			return lb.Epoch{Counter: rapid.Uint64Range(1, 40).Draw(t, "counter"), Origin: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "origin"), Members: []lb.Member{m}}
		}), 0, 90).Draw(t, "epochs")
		one, other := newView(self("a")), newView(self("b"))
		one.merge(epochs)
		for _, e := range rapid.Permutation(epochs).Draw(t, "order") {
			other.merge([]lb.Epoch{e})
		}
		if !slices.EqualFunc(one.epochs, other.epochs, equalEpochs) {
			t.Fatalf("%s\n%s", lines(one.epochs), lines(other.epochs))
		}
		checkList(t, one.epochs)
	})
}
