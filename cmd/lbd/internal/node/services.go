package node

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cirque-lb/lb"
)

// services says which backends get the flows of each L4 service.
func services(f Facts) []lb.SteeredService {
	var all []lb.SteeredService
	for _, s := range f.Config.Services {
		p := f.Config.Pool(s.Pool)
		if p == nil || IsLocal(s.Bind.Addr(), f.Addresses) {
			continue
		}
		all = append(all, lb.SteeredService{
			Name: s.Name, VIP: lb.VIP{Addr: s.Bind.Addr(), Port: s.Bind.Port(), Protocol: s.Transport()},
			Forward: s.Forward, ByClient: s.Affinity == "client", Hold: s.Hold,
			Backends: serviceBackends(p, f.Health, cutOverdue(f.Overlay.Backends, f.OverdueBackends)),
		})
	}
	return all
}

// serviceBackends divides a service among its pool's backends: the backups
// have no share while another takes new flows.
func serviceBackends(p *lb.Pool, health map[lb.BackendID]lb.Health, orders map[lb.BackendID]lb.Admin) []lb.SteeredBackend {
	panicking := tooFewUp(p, health)
	var main, backup []lb.SteeredBackend
	for _, b := range p.Backends {
		at, err := netip.ParseAddrPort(b.Address)
		if err != nil {
			continue // a socket's path, that discovery found
		}
		id := b.ID(p.Name)
		order := orders[id]
		up := panicking || health[id] != lb.Down
		one := lb.SteeredBackend{
			ID: id, Address: at.Addr().Unmap(), Weight: b.Weight,
			Takes: up && !order.Drain && !order.Disable, Keeps: up && !order.Disable && !order.Cut,
		}
		if order.Weight != nil {
			one.Weight = *order.Weight
		}
		one.Takes = one.Takes && one.Weight > 0
		if b.Backup {
			backup = append(backup, one)
		} else {
			main = append(main, one)
		}
	}
	takes := func(b lb.SteeredBackend) bool { return b.Takes }
	idle := main
	if slices.ContainsFunc(main, takes) || !slices.ContainsFunc(backup, takes) {
		idle = backup
	}
	for i := range idle {
		idle[i].Weight, idle[i].Takes = 0, false
	}
	return merge(append(main, backup...))
}

// tooFewUp reports whether health is to be ignored, as pools may ask for.
func tooFewUp(p *lb.Pool, health map[lb.BackendID]lb.Health) bool {
	up := 0
	for _, b := range p.Backends {
		if health[b.ID(p.Name)] != lb.Down {
			up++
		}
	}
	return float64(up) < float64(p.Panic)*float64(len(p.Backends))
}

// merge makes one of backends that differ in their ports only: packets keep
// the service's.
func merge(all []lb.SteeredBackend) []lb.SteeredBackend {
	slices.SortStableFunc(all, func(a, b lb.SteeredBackend) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.ID.Address, b.ID.Address))
	})
	out := all[:0]
	for _, b := range all {
		if n := len(out); n > 0 && out[n-1].Address == b.Address {
			one := &out[n-1]
			one.Weight, one.Takes, one.Keeps = one.Weight+b.Weight, one.Takes || b.Takes, one.Keeps || b.Keeps
			continue
		}
		out = append(out, b)
	}
	return out
}

// onlyServices reports whether this node serves without a worker's help.
func onlyServices(f Facts) bool {
	return len(f.Config.Listeners) == 0 && len(f.Config.Services) > 0 && (f.Fastpath == "native" || f.Fastpath == "generic")
}

func serviceNotes(f Facts) (notes []string) {
	for _, s := range f.Config.Services {
		switch {
		case IsLocal(s.Bind.Addr(), f.Addresses):
			notes = append(notes, fmt.Sprintf("service %s: %s is an address of this node and not a VIP: nothing is forwarded", s.Name, s.Bind))
		case f.Fastpath != "native" && f.Fastpath != "generic":
			notes = append(notes, fmt.Sprintf("service %s: without XDP nothing is forwarded", s.Name))
		}
	}
	return notes
}

// fragments lists the VIPs that take them.
func fragments(f Facts) (vips []netip.Addr) {
	take := func(bind netip.AddrPort, what lb.Fragments) {
		a := bind.Addr().Unmap()
		if what == lb.FragmentsHash && !IsLocal(a, f.Addresses) && !slices.Contains(vips, a) {
			vips = append(vips, a)
		}
	}
	for _, l := range f.Config.Listeners {
		take(l.Bind, l.Fragments)
	}
	for _, s := range f.Config.Services {
		take(s.Bind, s.Fragments)
	}
	return vips
}

// protect says whose packets to VIPs are dropped.
func protect(p lb.ProtectSettings) ([]lb.SteeredSource, lb.SourceLimits) {
	var sources []lb.SteeredSource
	for _, prefix := range p.Block {
		sources = append(sources, lb.SteeredSource{Prefix: prefix, Blocked: true})
	}
	for _, prefix := range p.Allow {
		sources = append(sources, lb.SteeredSource{Prefix: prefix, Exempt: true})
	}
	return sources, lb.SourceLimits{Packets: p.PacketsPerSecond, SYNs: p.SYNsPerSecond}
}
