package discover

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/miekg/dns"
)

// Bounds of an SRV name.
const (
	maxTargets = 1000
	lookups    = 8    // of targets, at once
	maxWeight  = 1000 // of a backend; a record's is at most 65535
)

// records is a source of the targets of an SRV name (RFC 2782).
type records struct {
	name    string
	servers []netip.AddrPort
	hosts   map[string]*host // by target
}

func newRecords(d lb.Discovery) *records {
	return &records{name: d.SRV, servers: d.Servers, hosts: map[string]*host{}}
}

// target is one record with the addresses of its host.
type target struct {
	*dns.SRV
	addresses []netip.Addr
	good      time.Duration
	err       error
}

// Find asks for SRV records and the addresses of their targets. A target that
// has none is left out as long as another has one; a target that cannot be
// asked for fails the whole, for half an answer takes backends away.
func (s *records) Find(ctx context.Context) (Answer, error) {
	r, err := newResolver(s.servers)
	if err != nil {
		return Answer{}, err
	}
	found, err := r.ask(ctx, s.name, dns.TypeSRV)
	if err != nil {
		return Answer{}, fmt.Errorf("look up %s: %w", s.name, err)
	}
	targets := usable(found.records)
	if len(targets) > maxTargets {
		return Answer{}, fmt.Errorf("look up %s: it has %d targets; at most %d are followed", s.name, len(targets), maxTargets)
	}
	s.locate(ctx, r, targets, found.extra)
	out := Answer{Good: found.good}
	missing := error(errNothing)
	for _, t := range targets {
		switch {
		case t.err == nil:
			out.Good = min(out.Good, t.good)
			out.Backends = append(out.Backends, t.backends(targets)...)
		case isMissing(t.err):
			missing = fmt.Errorf("%s: %w", t.Target, t.err)
		default:
			return Answer{}, fmt.Errorf("look up %s of %s: %w", t.Target, s.name, t.err)
		}
	}
	if out.Backends == nil {
		return Answer{}, fmt.Errorf("look up %s: %w", s.name, missing)
	}
	return out, nil
}

// usable are the records that lead somewhere, the best priority first.
func usable(found []dns.RR) []*target {
	var all []*target
	for _, rr := range found {
		// The target "." says that the service is decidedly not there.
		if t, ok := rr.(*dns.SRV); ok && t.Target != "." && t.Port != 0 {
			all = append(all, &target{SRV: t})
		}
	}
	slices.SortStableFunc(all, func(a, b *target) int { return cmp.Compare(a.Priority, b.Priority) })
	return all
}

// locate finds the targets' addresses: those that came along with the records,
// else it asks for them.
func (s *records) locate(ctx context.Context, r *resolver, targets []*target, extra []dns.RR) {
	known := s.hosts
	s.hosts = map[string]*host{}
	places := make(chan struct{}, lookups)
	var asking sync.WaitGroup
	asked := map[string][]*target{}
	for _, t := range targets {
		if t.addresses, t.good = came(extra, t.Target); t.addresses != nil {
			continue
		}
		asked[t.Target] = append(asked[t.Target], t) // a host may serve at several ports
	}
	for name, of := range asked {
		h := known[name]
		if h == nil {
			h = &host{name: name}
		}
		s.hosts[name] = h
		asking.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			addresses, good, err := h.find(ctx, r)
			for _, t := range of {
				t.addresses, t.good, t.err = addresses, good, err
			}
		})
	}
	asking.Wait()
}

// came are a host's addresses among the records that came along.
func came(extra []dns.RR, name string) ([]netip.Addr, time.Duration) {
	var all []netip.Addr
	good := latest
	for _, rr := range extra {
		if a, ok := address(rr); ok && strings.EqualFold(rr.Header().Name, name) {
			all, good = append(all, a), min(good, ttl(rr))
		}
	}
	return all, good
}

// backends are a target's. Who has not the best priority is a backup.
func (t *target) backends(all []*target) []lb.Backend {
	var out []lb.Backend
	for _, a := range t.addresses {
		out = append(out, lb.Backend{
			Address: netip.AddrPortFrom(a, t.Port).String(), Weight: t.weight(all), Backup: t.Priority > all[0].Priority,
		})
	}
	return out
}

// weight brings a record's weight into our range. A record of weight 0 has a
// very small chance, not none; when all have 0, all are the same.
func (t *target) weight(all []*target) int {
	most := 0
	for _, o := range all {
		most = max(most, int(o.Weight))
	}
	w := int(t.Weight)
	if most > maxWeight {
		w = w * maxWeight / most
	}
	return max(w, 1)
}
