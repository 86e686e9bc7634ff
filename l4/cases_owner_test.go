package l4

import (
	"bytes"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

func TestANodeWithoutWorkersIsInNoList(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(idle(edge1), edge2, edge3), only(idle(edge1), edge2)))
	for row, owners := range r.have.rows {
		for ; owners != 0; owners >>= 16 {
			if owners&0xffff == bpf.Self {
				t.Fatalf("row %d is %#x", row, r.have.rows[row])
			}
		}
	}
	for _, flags := range []string{"S", "A"} {
		if verdict, reason, _ := r.run(segment(flags)); verdict != redirect || reason != lb.XDPSent {
			t.Errorf("%s: verdict %d for %s", flags, verdict, reason)
		}
	}
}

func TestARowWithoutACurrentOwnerKeepsItsTwoBefore(t *testing.T) {
	r := newRig(t, edge1).apply(steering(edge1, only(idle(edge1), idle(edge2), idle(edge3)), idleBut(edge2), idleBut(edge3)))
	row := rowOf(flowHash(seed, tuple(lb.TCP, client4, 40000, "192.0.2.10", 80)))
	if owners := r.have.rows[row]; owners&0xffff != 0 || owners>>16&0xffff == 0 || owners>>32&0xffff == 0 {
		t.Fatalf("the row is %#x", owners)
	}
	verdict, reason, out := r.run(segment("A"))
	if verdict != redirect || reason != lb.XDPSent {
		t.Fatalf("a segment: verdict %d for %s", verdict, reason)
	}
	if o := readOuter(t, out); o.to != edge2.Address || o.place != 0x20 || len(o.extra) != 1 || o.extra[0] != edge3.Address {
		t.Errorf("a segment goes to %s, then %v", o.to, o.extra)
	}
	if verdict, reason, _ := r.run(segment("S")); verdict != drop || reason != lb.XDPNoOwner {
		t.Errorf("a SYN: verdict %d for %s", verdict, reason)
	}
}

func TestTheSeedIsNeverOnTheWire(t *testing.T) {
	s := steering(edge1, only(edge2))
	r := newRig(t, edge1).apply(s)
	for _, f := range [][]byte{segment("S"), segment("A"), segment6("A")} {
		_, _, out := r.run(f)
		for i := 0; i+4 <= len(seed); i++ {
			if bytes.Contains(out, seed[i:i+4]) {
				t.Errorf("bytes %d to %d of the seed are in % x", i, i+3, out)
			}
		}
	}
	// Whoever does not know it cannot choose flows of one row.
	other, same := seed, 0
	other[0]++
	for port := range uint16(1000) {
		flow := tuple(lb.TCP, client4, port, "192.0.2.10", 80)
		if rowOf(flowHash(seed, flow)) == rowOf(flowHash(other, flow)) {
			same++
		}
	}
	if same > 3 {
		t.Errorf("with another seed %d of 1000 flows are in the same row", same)
	}
}
