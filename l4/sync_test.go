package l4

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// testPlanner identifies socket n by the cookie 1000+n.
func testPlanner() planner {
	return planner{
		address: edge1.Address, owners: map[uint64][]int16{},
		cookie: func(fd int) (uint64, error) { return uint64(1000 + fd), nil },
	}
}

func anySteering(t *rapid.T) lb.Steering {
	var sets [][]lb.Member
	nodes := []lb.Member{edge1, edge2, edge3, edge4}
	for range rapid.IntRange(0, 4).Draw(t, "epochs") {
		var set []lb.Member
		for _, m := range nodes {
			if rapid.Bool().Draw(t, m.Name) {
				m.Weight = rapid.IntRange(0, 2).Draw(t, "weight")
				m.Boot[1] = byte(rapid.IntRange(0, 1).Draw(t, "boot"))
				set = append(set, m)
			}
		}
		sets = append(sets, set)
	}
	s := steering(edge1, sets...)
	s.VIPs = nil
	for i := range rapid.IntRange(0, 5).Draw(t, "vips") {
		address := netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 3).Draw(t, "address"))})
		s.VIPs = append(s.VIPs, lb.VIP{Addr: address, Port: uint16(80 * (i % 3)), Protocol: lb.TCP})
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "binds") {
		b := lb.SteeredBind{Bind: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 80)}
		for range rapid.IntRange(0, 4).Draw(t, "slots") {
			b.Sockets = append(b.Sockets, rapid.IntRange(-1, 9).Draw(t, "socket")*4+i)
			b.Live = append(b.Live, rapid.Bool().Draw(t, "live"))
		}
		for j, fd := range b.Sockets {
			if fd < 0 {
				b.Sockets[j] = -1
			}
		}
		s.Binds = append(s.Binds, b)
	}
	return s
}

// whole checks that every name in the tables has its target.
func whole(t *rapid.T, after string, h tables) {
	for row, owners := range h.rows {
		for ; owners != 0; owners >>= 16 {
			if local := uint32(owners & 0xffff); local != 0 && h.peers[local] == (bpf.Address{}) {
				t.Fatalf("%s: row %d names peer %d, which is not there", after, row, local)
			}
		}
	}
	for key, b := range h.binds {
		for _, slot := range b.Slot[:b.Live] {
			if h.slots[uint32(slot)] == 0 {
				t.Fatalf("%s: bind %v names slot %d, which is empty", after, key, slot)
			}
		}
	}
	for place, e := range h.vipTable {
		if !h.routes[e.Address.Addr()] {
			t.Fatalf("%s: VIP %s is steered, but not local", after, e.Address.Addr())
		}
		if h.vips[e.VIP].Ports == 0 {
			t.Fatalf("%s: VIP %s names ports %d, which are not there", after, e.Address.Addr(), e.VIP)
		}
		if first, second := bpf.VIPBucketsOf(e.Address); place/bpf.VIPBucket != first && place/bpf.VIPBucket != second {
			t.Fatalf("%s: VIP %s is in bucket %d, not in %d or %d", after, e.Address.Addr(), place/bpf.VIPBucket, first, second)
		}
	}
}

func TestEveryWriteLeavesTheTablesWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, have := testPlanner(), newTables(make([]uint64, lb.Rows))
		for range rapid.IntRange(1, 5).Draw(t, "applies") {
			want, err := p.plan(anySteering(t), have)
			if err != nil {
				t.Fatal(err)
			}
			peers := mapsClone(have.peers)
			rows := 0
			for _, w := range diff(have, want) {
				have.record(w)
				if w.table == tableRows {
					if rows++; rows > 1 {
						continue // one row like the other: keeps the test fast
					}
				}
				whole(t, w.String(), have)
			}
			for local, address := range have.peers {
				if was, ok := peers[local]; ok && was != address {
					t.Fatalf("peer %d was %s and became %s in one Apply: rows named it meanwhile", local, was.Addr(), address.Addr())
				}
			}
			if rest := diff(have, want); len(rest) != 0 {
				t.Fatalf("after all writes there are %d more: %s", len(rest), rest[0])
			}
		}
	})
}

func mapsClone[K comparable, V any](m map[K]V) map[K]V {
	c := map[K]V{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

func TestTheSameSteeringAgainWritesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, have := testPlanner(), newTables(make([]uint64, lb.Rows))
		s := anySteering(t)
		for i := range 2 {
			want, err := p.plan(s, have)
			if err != nil {
				t.Fatal(err)
			}
			writes := diff(have, want)
			if i > 0 && len(writes) != 0 {
				t.Fatalf("the second time there are %d writes: %s", len(writes), writes[0])
			}
			for _, w := range writes {
				have.record(w)
			}
		}
	})
}

func TestTheOrderOfWrites(t *testing.T) {
	p, have := testPlanner(), newTables(make([]uint64, lb.Rows))
	bind := lb.SteeredBind{Bind: netip.MustParseAddrPort("192.0.2.10:80"), Sockets: []int{3, 4}, Live: []bool{true, true}}
	first := steering(edge1, only(edge2))
	first.Binds = []lb.SteeredBind{bind}
	for _, c := range []struct {
		sentence string
		steering lb.Steering
		want     string
	}{
		{"everything is new", first, "+slots +binds +peers +peer_index +node +rows +routes +vips +vip_table"},
		{"everything goes but our own address", lb.Steering{Self: "edge-1"}, "+node +rows -vip_table -vips -routes -peer_index -peers -binds -slots"},
	} {
		want, err := p.plan(c.steering, have)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range diff(have, want) {
			sign := "+"
			if w.value == nil {
				sign = "-"
			}
			got = append(got, sign+w.table)
			have.record(w)
		}
		if got := strings.Join(slices.Compact(got), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.sentence, got, c.want)
		}
	}
}

func TestPlansThatAreRefused(t *testing.T) {
	many := steering(edge1)
	for i := range bpf.VIPPorts + 1 {
		many.VIPs = append(many.VIPs, lb.VIP{Addr: dns.Addr, Port: uint16(1000 + i), Protocol: lb.TCP})
	}
	wide := steering(edge1)
	wide.Binds = []lb.SteeredBind{{Bind: netip.MustParseAddrPort("192.0.2.10:80"), Sockets: make([]int, bpf.BindSlots+1)}}
	for i := range wide.Binds[0].Sockets {
		wide.Binds[0].Sockets[i] = i
	}
	for want, s := range map[string]lb.Steering{
		"VIP 192.0.2.10 has more than 64 ports":    many,
		"192.0.2.10:80 has 257 slots: at most 256": wide,
	} {
		p := testPlanner()
		if _, err := p.plan(s, newTables(make([]uint64, lb.Rows))); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got error %v, want %s…", err, want)
		}
	}
}

// A node that came with a wrong node.address must not hold up all others.
func TestAMemberWithAnAddressThatCannotBeIsWorkedRound(t *testing.T) {
	six := lb.Member{Name: "edge-6", Address: netip.MustParseAddr("fd00::6"), Weight: 4}
	twin := lb.Member{Name: "edge-7", Address: edge1.Address, Weight: 4}
	p, have := testPlanner(), newTables(make([]uint64, lb.Rows))
	s := steering(edge1, only(edge1, edge2, six, twin), only(six))
	want, err := p.plan(s, have)
	if err != nil {
		t.Fatal(err)
	}
	if len(want.peers) != 2 {
		t.Errorf("the peers are %v, want edge-1 and edge-2 only", want.peers)
	}
	plain := only(edge1, edge2, twin)
	owners := Owners(plain)
	for row, got := range want.rows {
		ours := plain[owners[row]].Name != edge2.Name
		if owner := want.peers[uint32(got&0xffff)].Addr(); got>>16 != 0 || ours != (owner == edge1.Address) {
			t.Fatalf("row %d is %#x, of %s; without edge-6 it would be %s's", row, got, owner, plain[owners[row]].Name)
		}
	}
	problems := strings.Join(p.misplaced(s), "\n")
	for _, part := range []string{"member edge-6 has the address fd00::6 and this node 10.0.0.1", "member edge-7 has this node's address 10.0.0.1"} {
		if !strings.Contains(problems, part) {
			t.Errorf("the problems are %q, want %q", problems, part)
		}
	}
	if again := diff(want, func() tables { w, _ := p.plan(s, want); return w }()); len(again) > 0 {
		t.Errorf("the same once more takes %d writes: %s", len(again), again[0])
	}
}

func TestReasonsAreOneList(t *testing.T) {
	known := map[string]bool{}
	for _, r := range []lb.Reason{lb.XDPNotIP, lb.XDPLocal, lb.XDPSent, lb.XDPNoSlot} {
		known[string(r)] = true
	}
	for _, r := range bpf.Reasons {
		if !slices.Contains([]string{"pass", "send", "drop"}, r.Verdict) || !strings.HasPrefix(r.Name, "xdp_") {
			t.Errorf("reason %s has the verdict %q", r.Name, r.Verdict)
		}
		delete(known, r.Name)
	}
	if len(known) != 0 {
		t.Errorf("%s are in lb and not in bpf: run go generate ./bpf", fmt.Sprint(known))
	}
}
