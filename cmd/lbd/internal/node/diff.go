package node

import (
	"fmt"

	"github.com/cirque-lb/lb"
)

// Difference is one change of the configuration, and what it breaks.
type Difference struct {
	lb.Change
	Breaks string // "" when nobody notices
}

// differences lists what changes and looks at what is in use now.
func (n *Node) differences(old, then *lb.Config) []Difference {
	changes := lb.Diff(old, then)
	if len(changes) == 0 {
		return nil
	}
	loads := map[lb.BackendID]lb.BackendLoad{}
	for _, l := range n.Stats().Backends {
		loads[l.ID] = l
	}
	all := make([]Difference, len(changes))
	for i, c := range changes {
		all[i] = Difference{c, breaks(c, loads)}
	}
	return all
}

// breaks says who notices a change.
func breaks(c lb.Change, loads map[lb.BackendID]lb.BackendLoad) string {
	if c.Kind != lb.Removed || c.Backend == nil {
		return ""
	}
	if l := loads[*c.Backend]; l.Active > 0 {
		return fmt.Sprintf("removes a backend with %s in progress; `lbctl backend drain %s --wait` first lets them finish", plural(l.Active, "request"), c.Backend)
	}
	return ""
}
