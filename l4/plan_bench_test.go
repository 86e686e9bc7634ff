package l4

import (
	"testing"

	"github.com/cirque-lb/lb"
)

// What an Apply costs that changes nothing: the node calls it often.
func BenchmarkPlan(b *testing.B) {
	p, have := testPlanner(), newTables(make([]uint64, lb.Rows))
	s := steering(edge1, only(edge1, edge2, edge3), only(edge1, edge2))
	for b.Loop() {
		want, err := p.plan(s, have)
		if err != nil {
			b.Fatal(err)
		}
		for _, w := range diff(have, want) {
			have.record(w)
		}
	}
}
