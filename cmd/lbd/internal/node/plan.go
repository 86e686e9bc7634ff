package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// Facts is everything a decision depends on.
type Facts struct {
	Config  *lb.Config
	Overlay Overlay
	Leaving bool // SIGTERM: drain, but forget it at the next start
	Overdue bool // the drain has lasted longer than drain.timeout

	OverdueListeners  map[string]bool // those whose drain has
	SteeringListeners map[string]bool // those that drain, and peers may not have heard
	OverdueBackends   map[lb.BackendID]bool

	Health    map[lb.BackendID]lb.Health
	Sockets   []lb.SteeredBind
	SlotsGone bool // no slot is live, and that is no mere moment
	Clustered bool
	Epochs    []lb.Epoch
	Seed      [16]byte
	Tags      []uint32
	Addresses []netip.Addr // of the interfaces other than lo
	Fastpath  string       // mode of the datapath

	Peers   []Peer
	Silent  []netip.Addr        // peers whose datapath does not answer
	Turning []netip.Addr        // peers whose workers serve, by what it answers
	Served  map[string][]lb.VIP // what the nodes say that they serve
	WasHere []lb.VIP            // served where they arrived until lately
	WasAway []lb.VIP            // withdrawn here until lately

	Stragglers []netip.AddrPort // clients whose connections need an epoch that is to be forgotten
}

// Decision is what the parts of a node shall be told.
type Decision struct {
	Steering  lb.Steering
	State     lb.State
	Targets   []Target
	Ready     bool     // this node can serve
	Weight    int      // of this node in the next epoch
	Withdrawn []lb.VIP // of listeners that drain: peers keep their new connections
	Notes     []string
}

// Plan decides, from facts alone: no clock, no I/O. The same facts give the
// same decision.
func Plan(f Facts) Decision {
	d := Decision{Targets: targets(f.Config), State: state(f)}
	d.Withdrawn = withdrawn(f)
	d.Steering, d.Notes = steering(f, d.Withdrawn)
	slots, _ := slots(f.Sockets)
	d.Ready = slots > 0 && !f.SlotsGone || onlyServices(f) || slots == 0 && everyListenerDrains(f)
	if d.Ready && !d.State.Draining {
		d.Weight = slots // configured ones: a worker's crash moves no row
	}
	d.Notes = append(d.Notes, configNotes(f.Config)...)
	d.Notes = append(d.Notes, orderNotes(f.Config, f.Overlay)...)
	return d
}

// withdrawn are the addresses of listeners that drain.
func withdrawn(f Facts) (vips []lb.VIP) {
	for _, l := range f.Config.Listeners {
		if _, drains := f.Overlay.Listeners[l.Name]; drains {
			vips = append(vips, lb.VIP{Addr: l.Bind.Addr(), Port: l.Bind.Port(), Protocol: lb.TCP})
		}
	}
	return vips
}

func state(f Facts) lb.State {
	draining := f.Leaving || !f.Overlay.DrainSince.IsZero()
	return lb.State{
		Health:   f.Health,
		Admin:    cutOverdue(f.Overlay.Backends, f.OverdueBackends),
		Draining: draining,
		Cut:      draining && f.Overdue,

		Stragglers: f.Stragglers,
		Listeners:  drainingListeners(f),
	}
}

// drainingListeners are those of the configuration that an operator drains, once
// peers keep new connections from them. Of others the order is kept, so that they come back as they went.
func drainingListeners(f Facts) map[string]bool {
	var out map[string]bool
	for _, l := range f.Config.Listeners {
		if _, drains := f.Overlay.Listeners[l.Name]; drains && !f.SteeringListeners[l.Name] {
			if out == nil {
				out = map[string]bool{}
			}
			out[l.Name] = f.OverdueListeners[l.Name]
		}
	}
	return out
}

// targets lists the backends that have a check.
func targets(c *lb.Config) []Target {
	n := 0
	for _, p := range c.Pools {
		n += len(p.Backends)
	}
	all := make([]Target, 0, n)
	for _, p := range c.Pools {
		if p.Check == nil {
			continue
		}
		for _, b := range p.Backends {
			all = append(all, Target{lb.BackendID{Pool: p.Name, Address: b.Address}, *p.Check})
		}
	}
	return all
}

func steering(f Facts, withdrawn []lb.VIP) (lb.Steering, []string) {
	s := lb.Steering{Seed: f.Seed, Tags: f.Tags, Binds: f.Sockets}
	var notes []string
	if f.Clustered {
		s.Self, s.Epochs = f.Config.Node.Name, f.Epochs
		s.Gone, notes = gone(f)
	}
	notes = append(notes, serviceNotes(f)...)
	s.Services = services(f)
	s.Sources, s.Limits = protect(f.Config.Protect)
	s.Misses, s.Fragments = f.Config.Protect.MissesPerSecond, fragments(f)
	for _, l := range f.Config.Listeners {
		if IsLocal(l.Bind.Addr(), f.Addresses) {
			continue
		}
		v := lb.VIP{Addr: l.Bind.Addr(), Port: l.Bind.Port(), Protocol: lb.TCP}
		if !slices.Contains(s.VIPs, v) {
			s.VIPs = append(s.VIPs, v)
		}
		if f.Fastpath == "off" {
			notes = append(notes, fmt.Sprintf("listener %s: %s is a VIP and the fast path is off: this node serves what the network brings to it, the kernel chooses the slot", l.Name, l.Bind))
		}
	}
	if f.Clustered {
		notes = append(notes, planVIPs(f, withdrawn, &s)...)
	}
	return s, notes
}

// IsLocal reports whether a listener's address belongs to this node alone: a
// wildcard, a loopback address, or one of an interface other than lo. Anything
// else is a VIP, which the nodes of a cluster share.
func IsLocal(a netip.Addr, addresses []netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsUnspecified() || a.IsLoopback() || slices.Contains(addresses, a)
}

// slots counts the slots of this node, and those that take new connections
// everywhere.
func slots(binds []lb.SteeredBind) (all, live int) {
	if len(binds) == 0 {
		return 0, 0
	}
	all = len(binds[0].Live)
	for i := range all {
		everywhere := true
		for _, b := range binds {
			everywhere = everywhere && i < len(b.Live) && b.Live[i]
		}
		if everywhere {
			live++
		}
	}
	return all, live
}

// configNotes says what an operator chose and should not forget.
func configNotes(c *lb.Config) []string {
	var notes []string
	for _, p := range c.Pools {
		if p.TLS != nil && p.TLS.Insecure {
			notes = append(notes, fmt.Sprintf("pool %s: tls.insecure: anybody may pretend to be its backends", p.Name))
		}
	}
	return notes
}

// maxNamed bounds how many names a line has.
const maxNamed = 5

// orderNotes says what operators ordered beside the configuration. Orders for
// backends that are not configured are kept: those come back as they went.
func orderNotes(c *lb.Config, o Overlay) []string {
	var notes []string
	if !o.DrainSince.IsZero() {
		notes = append(notes, "an operator drains this node since "+o.DrainSince.Format(time.RFC3339)+"; `lbctl node undrain` takes it back")
	}
	var listeners []string
	for name, since := range o.Listeners {
		listeners = append(listeners, name+" since "+since.Format(time.RFC3339))
	}
	if listeners != nil {
		notes = append(notes, "an operator drains listeners: "+someOf(listeners)+"; `lbctl listener undrain` takes it back")
	}
	if len(o.Backends) == 0 {
		return notes
	}
	configured := map[lb.BackendID]bool{}
	for _, p := range c.Pools {
		for _, b := range p.Backends {
			configured[b.ID(p.Name)] = true
		}
	}
	var here, gone []string
	for id, a := range o.Backends {
		if configured[id] {
			here = append(here, id.String()+" "+orderText(a))
		} else {
			gone = append(gone, id.String())
		}
	}
	if here != nil {
		notes = append(notes, "operators' orders: "+someOf(here))
	}
	if gone != nil {
		notes = append(notes, "orders are kept for backends that are not configured: "+someOf(gone))
	}
	return notes
}

func orderText(a lb.Admin) string {
	var parts []string
	if a.Drain {
		parts = append(parts, "drain")
	}
	if a.Disable {
		parts = append(parts, "disable")
	}
	if a.Weight != nil {
		parts = append(parts, fmt.Sprintf("weight %d", *a.Weight))
	}
	return strings.Join(parts, " ")
}

// someOf lists names in order, and how many more there are.
func someOf(names []string) string {
	slices.Sort(names)
	if len(names) <= maxNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
}
