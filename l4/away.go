package l4

import (
	"slices"

	"github.com/cirque-lb/lb"
)

// away is the rows with their stand-ins: who takes the new connections of VIPs that
// drain here. Rows of members that take them stay those members'.
type away struct {
	of     *derivation
	to     []string
	owners []int16 // of each row: index of the derivation's members, -1: nobody
	rows   []uint64
}

func (p *planner) standIns(s lb.Steering, d *derivation) []uint64 {
	if p.away != nil && p.away.of == d && slices.Equal(p.away.to, s.AwayTo) {
		return p.away.rows
	}
	newest := slices.Clone(s.Epochs[0].Members)
	for i, m := range newest {
		if m.Name == s.Self || p.apart(m) || !slices.Contains(s.AwayTo, m.Name) {
			newest[i].Weight = 0
		}
	}
	a := &away{of: d, to: slices.Clone(s.AwayTo), owners: Owners(newest), rows: slices.Clone(d.rows)}
	for row, owner := range a.owners {
		if owner >= 0 { // members begin with those of the newest epoch, in order
			a.rows[row] |= uint64(d.local[owner]) << 48
		}
	}
	p.away = a
	return a.rows
}

// standIn is who takes a row's new connections of a VIP that drains here; false:
// nobody does.
func (p *planner) standIn(s lb.Steering, v *lb.VIP, row int) (lb.Member, bool) {
	if v == nil || p.away == nil || !slices.Contains(s.Away, *v) || p.away.owners[row] < 0 {
		return lb.Member{}, false
	}
	return p.away.of.members[p.away.owners[row]], true
}
