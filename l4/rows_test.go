package l4

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

func fleet(n, weight int) (members []lb.Member) {
	for i := range n {
		members = append(members, lb.Member{Name: fmt.Sprintf("edge-%d", i), Weight: weight})
	}
	return members
}

// shares counts each member's rows.
func shares(members []lb.Member) []int {
	counts := make([]int, len(members))
	for _, o := range Owners(members) {
		if o >= 0 {
			counts[o]++
		}
	}
	return counts
}

func TestRowsAreSharedByWeight(t *testing.T) {
	mixed := fleet(5, 1)
	for i := range mixed {
		mixed[i].Weight = []int{1, 2, 4, 8, 16}[i]
	}
	for name, c := range map[string]struct {
		members   []lb.Member
		deviation float64 // 4 standard deviations of the smallest share
	}{
		"3 equal": {fleet(3, 4), 0.02}, "30 equal": {fleet(30, 8), 0.09}, "100 equal": {fleet(100, 1), 0.16},
		"1:2:4:8:16": {mixed, 0.09},
	} {
		total := 0
		for _, m := range c.members {
			total += m.Weight
		}
		for i, n := range shares(c.members) {
			want := float64(lb.Rows) * float64(c.members[i].Weight) / float64(total)
			if off := math.Abs(float64(n)/want - 1); off > c.deviation {
				t.Errorf("%s: member %d has %d rows, want %.0f within %.0f %%", name, i, n, want, c.deviation*100)
			}
		}
	}
}

// moved counts the rows that change owner, by name, and how many of these
// neither leave from nor come to one of the names.
func moved(before, after []lb.Member, names ...string) (all, needless int) {
	b, a := Owners(before), Owners(after)
	for row := range b {
		from, to := before[b[row]].Name, after[a[row]].Name
		if from == to {
			continue
		}
		all++
		touched := false
		for _, n := range names {
			touched = touched || from == n || to == n
		}
		if !touched {
			needless++
		}
	}
	return all, needless
}

func TestOnlyRowsOfWhoComesOrGoesMove(t *testing.T) {
	ten := fleet(10, 4)
	without := append(append([]lb.Member{}, ten[:3]...), ten[4:]...)
	heavier := append([]lb.Member{}, ten...)
	heavier[5].Weight = 8
	lighter := append([]lb.Member{}, ten...)
	lighter[5].Weight = 2
	drained := append([]lb.Member{}, ten...)
	drained[5].Weight = 0
	for name, c := range map[string]struct {
		before, after []lb.Member
		who           string
	}{
		"one leaves":        {ten, without, "edge-3"},
		"one returns":       {without, ten, "edge-3"},
		"one drains":        {ten, drained, "edge-5"},
		"one gets heavier":  {ten, heavier, "edge-5"},
		"one gets lighter":  {ten, lighter, "edge-5"},
		"one of many comes": {fleet(99, 3), fleet(100, 3), "edge-99"},
	} {
		all, needless := moved(c.before, c.after, c.who)
		if needless != 0 || all == 0 {
			t.Errorf("%s: %d rows move, %d of them between others", name, all, needless)
		}
	}
	// Who returns gets exactly its rows back.
	if all, _ := moved(ten, append(append([]lb.Member{}, without...), ten[3])); all != 0 {
		t.Errorf("after leaving and returning %d rows are elsewhere", all)
	}
}

// Every node must find the same rows: on other machines and in later versions.
func TestRowsNeverChange(t *testing.T) {
	members := fleet(7, 3)
	for i := range members {
		members[i].Weight += i
	}
	h := fnv.New64a()
	for _, o := range Owners(members) {
		h.Write(binary.BigEndian.AppendUint16(nil, uint16(o)))
	}
	if got, want := h.Sum64(), uint64(0x4a1d69fea72dcff2); got != want {
		t.Errorf("the rows of seven members hash to %#x, want %#x: nodes of two versions would disagree", got, want)
	}
}

func TestTheLogarithmFallsAsTheHashRises(t *testing.T) {
	log := logs()
	for i, hash := range []uint64{1, 2, 3, 1 << 20, 1<<20 + 1, 1 << 52, 1<<53 - 1, 1 << 63, 1<<63 + 1<<52, math.MaxUint64 - 1<<40, math.MaxUint64} {
		got := float64(log.minus(hash)) / (1 << 32)
		want := -math.Log2(float64(hash) / (1 << 64))
		if math.Abs(got-want) > 1e-7 {
			t.Errorf("%d: -log2(%#x/2^64) = %v, want %v", i, hash, got, want)
		}
	}
	last := log.minus(1)
	for hash := uint64(1); hash < math.MaxUint64/3*2; hash += hash/1000 + 1 {
		if now := log.minus(hash); now > last {
			t.Fatalf("the logarithm rises at %#x", hash)
		} else {
			last = now
		}
	}
}

func TestChains(t *testing.T) {
	m := func(name string, boot byte, weight int) lb.Member {
		return lb.Member{Name: name, Boot: lb.BootID{boot}, Weight: weight}
	}
	a, b, c, d := m("a", 1, 1), m("b", 1, 1), m("c", 1, 1), m("d", 1, 1)
	for _, k := range []struct {
		sentence string
		epochs   [][]lb.Member // newest first
		want     string        // owners by name, newest first; - for nobody
	}{
		{"one epoch, one owner", [][]lb.Member{{a}}, "a"},
		{"each owner once, newest first", [][]lb.Member{{a}, {b}, {c}}, "a b c"},
		{"an owner that comes back is not listed twice", [][]lb.Member{{a}, {b}, {a}, {b}}, "a b"},
		{"three at most", [][]lb.Member{{a}, {b}, {c}, {d}}, "a b c"},
		{"nobody takes new connections", [][]lb.Member{{m("a", 1, 0)}, {b}}, "- b"},
		{"nobody ever did", [][]lb.Member{{m("a", 1, 0)}}, "-"},
		{"a host that was booted anew knows nothing of its earlier life", [][]lb.Member{{a, m("b", 2, 0)}, {b}, {c}}, "a c"},
		{"a drained node keeps its flows", [][]lb.Member{{a, m("b", 1, 0)}, {b}}, "a b"},
	} {
		members, rows := chains(epochs(k.epochs...), nil, func(e lb.Epoch) []int16 { return Owners(e.Members) })
		got := ""
		for i, o := range rows[4711] {
			switch {
			case o >= 0:
				got += " " + members[o].Name
			case i == 0:
				got += " -"
			}
		}
		if got != " "+k.want {
			t.Errorf("%s: chain%s, want %s", k.sentence, got, k.want)
		}
	}
}

func TestSipHash(t *testing.T) {
	// The reference's first vectors for SipHash-1-3: key 00 01 … 0f, message
	// 00 01 … of the length that is the vector's index.
	for n, want := range []uint64{0xabac0158050fc4dc, 0xc9f49bf37d57ca93} {
		message := make([]byte, n)
		for i := range message {
			message[i] = byte(i)
		}
		if got := newSip(0x0706050403020100, 0x0f0e0d0c0b0a0908).sum(message); got != want {
			t.Errorf("SipHash-1-3 of %d bytes = %#x, want %#x", n, got, want)
		}
	}
}

func TestRowsOfAHash(t *testing.T) {
	for _, high := range []uint64{0, 1, 65535, 65536, 65537, 65538, 1<<32 - 1} {
		low, top := uint32(high&0xffff), uint32(high>>16) // as hash.h does it
		c := low - top
		if low < top {
			c = low + lb.Rows - top
		}
		if got := rowOf(high << 32); got != int(c) || got != int(high%lb.Rows) {
			t.Errorf("row of %#x is %d in Go, %d in C", high, got, c)
		}
	}
}

func BenchmarkOwners(b *testing.B) {
	for _, n := range []int{3, 30, 300} {
		equal, mixed := fleet(n, 4), fleet(n, 4)
		for i := range mixed {
			mixed[i].Weight = 4 + i%3
		}
		b.Run(fmt.Sprintf("nodes=%d/equal", n), func(b *testing.B) {
			for b.Loop() {
				Owners(equal)
			}
		})
		b.Run(fmt.Sprintf("nodes=%d/mixed", n), func(b *testing.B) {
			for b.Loop() {
				Owners(mixed)
			}
		})
	}
}

// How evenly rows are shared, and what a change of one member moves, at the sizes
// that ARCHITECTURE.md tells of.
func TestRowsOfThreeThirtyAndThreeHundredNodes(t *testing.T) {
	for _, c := range []struct {
		nodes int
		most  float64 // off an even share, the worst member: 4.5 standard deviations
	}{{3, 0.025}, {30, 0.1}, {300, 0.31}} {
		members := fleet(c.nodes, 4)
		even := float64(lb.Rows) / float64(c.nodes)
		least, most := lb.Rows, 0
		counts := shares(members)
		for _, n := range counts {
			least, most = min(least, n), max(most, n)
		}
		gone, needlessGone := moved(members, members[1:], "edge-0")
		came, needlessCame := moved(members, append(fleet(c.nodes, 4), lb.Member{Name: "new", Weight: 4}), "new")
		built := time.Hour
		for range 5 {
			began := time.Now()
			Owners(members)
			built = min(built, time.Since(began))
		}
		t.Logf("%d nodes: %+.1f to %+.1f %% of an even share; one leaves: %.2f %% of the rows move, its own are %.2f %%; one comes: %.2f %%; built in %v at best",
			c.nodes, 100*(float64(least)/even-1), 100*(float64(most)/even-1), 100*float64(gone)/lb.Rows, 100*float64(counts[0])/lb.Rows, 100*float64(came)/lb.Rows, built.Round(10*time.Microsecond))
		if float64(most) > (1+c.most)*even || float64(least) < (1-c.most)*even {
			t.Errorf("%d nodes have %d to %d rows, %.0f are even", c.nodes, least, most, even)
		}
		if gone != counts[0] || needlessGone+needlessCame != 0 {
			t.Errorf("%d nodes: one with %d rows left, and %d moved; %d and %d needlessly", c.nodes, counts[0], gone, needlessGone, needlessCame)
		}
	}
}
