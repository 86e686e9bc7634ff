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
	f.born++
	f.members = append(f.members, lb.Member{
		Name: fmt.Sprintf("edge-%d", f.born+1), Boot: lb.BootID{1}, Weight: 1 + f.IntN(8),
		Address: netip.AddrFrom4([4]byte{10, 1, byte(f.born >> 8), byte(f.born)}),
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
func moves(before, after []string) (moved, least int) {
	had := map[string]int{}
	for row := range before {
		had[before[row]]++
		if before[row] != after[row] {
			moved++
		}
	}
	for _, name := range after {
		if had[name]--; had[name] < 0 {
			least++
		}
	}
	return moved, least
}

func names(e lb.Epoch) []string {
	list := make([]string, lb.Rows)
	for row, owner := range Owners(e.Members) {
		if owner >= 0 {
			list[row] = e.Members[owner].Name
		}
	}
	return list
}

// TestALongLife goes through many epochs and looks for what grows.
func TestALongLife(t *testing.T) {
	f := &fleetLife{Rand: rand.New(rand.NewPCG(1, 2)), members: only(edge1)}
	r := newRig(t, edge1)
	epochs := []lb.Epoch{{Counter: 1, Origin: "edge-1", Members: f.members}}
	before := names(epochs[0])
	var moved, least, stores, most, peers int
	var first footprint
	for n := range *longEpochs {
		for range 1 + f.IntN(2) {
			f.change()
		}
		e := lb.Epoch{Counter: epochs[0].Counter + 1, Origin: "edge-1", Members: f.members}
		epochs = slices.Insert(epochs, 0, e)
		epochs = epochs[:min(len(epochs), 1+f.IntN(4))] // the others are needed no more
		after := names(e)
		m, l := moves(before, after)
		moved, least, before = moved+m, least+l, after
		had := slices.Clone(r.have.rows)
		s := steering(edge1)
		s.Epochs = epochs
		r.apply(s)
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
		r.spotCheck(before, f.members)
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
func (r *rig) spotCheck(owners []string, members []lb.Member) {
	for row := 0; row < lb.Rows; row += 4099 {
		var word uint64
		if err := r.Rows.Lookup(uint32(row), &word); err != nil {
			r.t.Fatal(err)
		}
		got := "" // nobody
		if index := uint32(word & 0xffff); index == bpf.Self {
			got = edge1.Name
		} else if index != 0 {
			at := slices.IndexFunc(members, func(m lb.Member) bool { return bpf.AddressOf(m.Address) == r.have.peers[index] })
			if at < 0 {
				r.t.Fatalf("row %d: the owner %d is no member", row, index)
			}
			got = members[at].Name
		}
		if got != owners[row] {
			r.t.Fatalf("row %d is of %q, want %q", row, got, owners[row])
		}
	}
}
