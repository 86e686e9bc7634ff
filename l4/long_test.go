package l4

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

var longEpochs = flag.Int("epochs", 60, "how many epochs TestALongLife goes through; 10000 for the numbers in ARCHITECTURE.md")

// A fleetLife is a cluster that changes: nodes come, go, drain, weigh otherwise
// and are booted anew, and nobody is ever the same again.
type fleetLife struct {
	*rand.Rand
	members []lb.Member
	born    int
}

func (f *fleetLife) join() {
	f.born++ // the first is number 1
	f.members = append(f.members, lb.Member{
		Name: fmt.Sprintf("edge-%d", f.born+1), Boot: lb.BootID{1}, Weight: 1 + f.IntN(8),
		Address: netip.AddrFrom4([4]byte{10, 1, byte((f.born + 1) >> 8), byte(f.born + 1)}),
	})
}

// change makes one change to anybody but the first, whose datapath it is.
func (f *fleetLife) change() {
	f.members = slices.Clone(f.members)
	if len(f.members) < 3 {
		f.join()
		return
	}
	i := 1 + f.IntN(len(f.members)-1)
	switch m := &f.members[i]; f.IntN(5) {
	case 0:
		if len(f.members) < 16 {
			f.join()
		}
	case 1:
		f.members = slices.Delete(f.members, i, i+1)
	case 2:
		m.Weight = 0
	case 3:
		m.Weight = 1 + f.IntN(8)
	case 4:
		m.Boot[0]++
	}
}

// moves compares two assignments: how many rows changed hands, and how many had
// to, at least, for everybody to have as many as now.
func moves(before, after []int) (moved, least int) {
	var surplus [1 << 16]int
	for row, owner := range before {
		surplus[owner]++
		if owner != after[row] {
			moved++
		}
	}
	for _, owner := range after {
		if surplus[owner]--; surplus[owner] < 0 {
			least++
		}
	}
	return moved, least
}

// holders are the owners of all rows by the numbers in their addresses, which
// nobody else ever has.
func (r *rig) holders(e lb.Epoch) []int {
	list := make([]int, lb.Rows)
	for row, owner := range r.planner.ownersOf(e) {
		if owner >= 0 {
			a := e.Members[owner].Address.As4()
			list[row] = int(a[2])<<8 | int(a[3])
		}
	}
	return list
}

// TestALongLife goes through many epochs and looks for what grows.
func TestALongLife(t *testing.T) {
	f := &fleetLife{Rand: rand.New(rand.NewPCG(1, 2)), members: only(edge1)}
	r := newRig(t, edge1)
	epochs := []lb.Epoch{{Counter: 1, Origin: "edge-1", Members: f.members}}
	before := r.holders(epochs[0])
	var moved, least, stores, most, peers int
	var first footprint
	for n := range *longEpochs {
		for range 1 + f.IntN(2) {
			f.change()
		}
		e := lb.Epoch{Counter: epochs[0].Counter + 1, Origin: "edge-1", Members: f.members}
		epochs = slices.Insert(epochs, 0, e)
		epochs = epochs[:min(len(epochs), 1+f.IntN(4))] // the others are needed no more
		had := slices.Clone(r.have.rows)
		s := steering(edge1)
		s.Epochs = epochs
		r.apply(s)
		after := r.holders(e)
		m, l := moves(before, after)
		moved, least, before = moved+m, least+l, after
		for row := range had {
			if had[row] != r.have.rows[row] {
				stores++
			}
		}
		peers = max(peers, len(r.have.peers))
		for index := range r.have.peers {
			most = max(most, int(index))
		}
		if n == *longEpochs/4 {
			first = r.footprint()
		}
		r.spotCheck(before)
	}
	last := r.footprint()
	t.Logf("%d epochs, %d nodes seen, %d at once: %.4f times the least rows moved, %d a time; %.2f stores per row moved; from %s to %s",
		*longEpochs, f.born+1, peers, float64(moved)/float64(least), moved / *longEpochs, float64(stores)/float64(moved), first, last)
	if float64(moved) > 1.05*float64(least) {
		t.Errorf("%d rows moved, %d would have done", moved, least)
	}
	if stores > 4*moved+lb.Rows {
		t.Errorf("%d stores for %d rows that moved", stores, moved)
	}
	if last.files != first.files || last.entries > peers || most > 4*peers || last.heap > first.heap+4<<20 {
		t.Errorf("it grows: %s, then %s; the highest number of %d peers is %d", first, last, peers, most)
	}
}

// footprint is what a datapath holds.
type footprint struct {
	heap           uint64 // bytes
	files, entries int
}

func (f footprint) String() string {
	return fmt.Sprintf("%d KiB of heap, %d files, %d peers in the kernel", f.heap>>10, f.files, f.entries)
}

func (r *rig) footprint() (f footprint) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, _ := os.ReadDir("/proc/self/fd")
	f.heap, f.files = m.HeapAlloc, len(files)
	var address bpf.Address
	var index uint32
	for it := r.PeerIndex.Iterate(); it.Next(&address, &index); {
		f.entries++
	}
	return f
}

// spotCheck reads some rows back: their first owner is who it should be.
func (r *rig) spotCheck(holders []int) {
	for row := 0; row < lb.Rows; row += 4099 {
		var word uint64
		if err := r.Rows.Lookup(uint32(row), &word); err != nil {
			r.t.Fatal(err)
		}
		got := 0 // nobody
		if index := uint32(word & 0xffff); index != 0 {
			a := r.have.peers[index].Addr().As4()
			got = int(a[2])<<8 | int(a[3])
		}
		if got != holders[row] {
			r.t.Fatalf("row %d is of node %d, want %d", row, got, holders[row])
		}
	}
}
