package lb

import (
	"fmt"
	"net/netip"
)

// A taker is a listener or service that says what becomes of fragments.
type taker struct {
	name      string
	at        netip.AddrPort
	protocol  Protocol
	bind      any // where it says so
	fragments *Fragments
	service   bool
}

// fragments wants what is at one address to agree: what is not the first
// fragment of a packet names no port, so whose it is shows in the address alone.
func (v *validator) fragments() {
	first := map[netip.Addr]taker{}
	alone := map[netip.Addr]map[Protocol]taker{}
	for _, t := range v.takers() {
		a := t.at.Addr().Unmap()
		if !a.IsValid() || a.IsUnspecified() {
			continue
		}
		one, known := first[a]
		switch {
		case !known:
			first[a], alone[a] = t, map[Protocol]taker{}
		case *one.fragments != *t.fragments:
			v.errorf(v.said(t), CodeFragments, "write the same in both", "%s at %s has fragments: %s, and %s has fragments: %s", t.name, a, *t.fragments, one.name, *one.fragments)
			continue
		}
		other, taken := alone[a][t.protocol]
		if *t.fragments == FragmentsHash && taken && (other.service || t.service) {
			v.errorf(v.said(t), CodeFragments, "give it an address of its own", "%s takes fragments at %s, and so does %s: they name no %s port", t.name, a, other.name, t.protocol)
			continue
		}
		alone[a][t.protocol] = t
	}
}

// said is where the document says it, or where it could.
func (v *validator) said(t taker) any {
	if v.has(t.fragments) {
		return t.fragments
	}
	return t.bind
}

func (v *validator) takers() (all []taker) {
	for _, l := range v.config.Listeners {
		all = append(all, taker{fmt.Sprintf("listener %q", l.Name), l.Bind, TCP, &l.Bind, &l.Fragments, false})
	}
	for _, s := range v.config.Services {
		all = append(all, taker{fmt.Sprintf("service %q", s.Name), s.Bind, s.Transport(), &s.Bind, &s.Fragments, true})
	}
	return all
}
