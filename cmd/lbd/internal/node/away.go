package node

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
)

// A VIP that is withdrawn here still arrives here: the router knows nodes, not
// listeners. Its new connections go to members that serve it, by rows of their
// own; what is established here stays. For drain.timeout after the VIP is back,
// connections that began elsewhere meanwhile are looked for there.

// planAway says which VIPs go to other members, and to which: those that serve all
// of them.
func planAway(f Facts, withdrawn []lb.VIP, s *lb.Steering) (notes []string) {
	var to []string
	first := true
	may := func(v lb.VIP) bool {
		serve := servers(f, v)
		if !first {
			serve = slices.DeleteFunc(serve, func(name string) bool { return !slices.Contains(to, name) })
		}
		if len(serve) == 0 {
			return false
		}
		to, first = serve, false
		return true
	}
	for _, v := range s.VIPs {
		if !slices.Contains(withdrawn, v) {
			continue
		}
		if may(v) {
			s.Away = append(s.Away, v)
		} else {
			notes = append(notes, fmt.Sprintf("VIP %s drains here and no other node takes its new connections: they are refused", v))
		}
	}
	for _, v := range s.VIPs {
		if slices.Contains(f.WasAway, v) && !slices.Contains(withdrawn, v) && may(v) {
			s.WasAway = append(s.WasAway, v)
		}
	}
	s.AwayTo = to
	return notes
}

// servers are the other members that serve a VIP. One that does not say what it
// serves is of an older version, and counts as having all.
func servers(f Facts, v lb.VIP) (names []string) {
	for _, p := range f.Peers {
		said, says := f.Served[p.Name]
		if !p.Self && p.Listed && p.State == "alive" && p.Weight > 0 && (!says || slices.Contains(said, v)) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

// noteAway remembers which VIPs went away.
func (n *Node) noteAway(away []lb.VIP) {
	if n.away == nil {
		n.away = map[lb.VIP]time.Time{}
	}
	until := n.o.Now().Add(n.running.config.Drain.Timeout)
	for _, v := range away {
		n.away[v] = until
	}
}

// tickAway forgets those whose time is over; it reports whether there were any. Of
// those that are away the time does not run.
func (n *Node) tickAway() (changed bool) {
	if n.told != nil {
		n.noteAway(n.told.Steering.Away)
	}
	now := n.o.Now()
	maps.DeleteFunc(n.away, func(_ lb.VIP, until time.Time) bool {
		over := !now.Before(until)
		changed = changed || over
		return over
	})
	return changed
}
