package filter

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// access lets clients in, or answers 403, by their address:
//
//	access: { allow: [10.0.0.0/8], deny: [10.6.0.0/16] }
//
// The narrowest network that holds the address decides. An address in none is
// let in, unless allow lists something. The client is whom trusted proxies name.
func access(n lb.Node) (l7.Filter, error) {
	var c struct {
		Allow []netip.Prefix `yaml:"allow" range:"0..10000"`
		Deny  []netip.Prefix `yaml:"deny" range:"0..10000"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	if len(c.Allow)+len(c.Deny) == 0 {
		return l7.Filter{}, n.Errorf("access wants networks to allow or to deny")
	}
	var list networks
	for _, p := range c.Allow {
		list.add(p, true)
	}
	for _, p := range c.Deny {
		if list.of[p] {
			return l7.Filter{}, n.Key("deny").Errorf("%s is both allowed and denied", p)
		}
		list.add(p, false)
	}
	others := len(c.Allow) == 0
	return l7.Filter{Name: "access", Request: func(s *l7.Session) (*l7.Response, error) {
		if list.lookup(s.Client(), others) {
			return nil, nil
		}
		return nil, &l7.Error{Status: 403, Source: l7.FromClient, Reason: lb.AccessDenied}
	}}, nil
}

// networks finds the narrowest network that holds an address: one look for each
// length that there is.
type networks struct {
	of      map[netip.Prefix]bool
	lengths [2][]int // of IPv4 and IPv6 networks, longest first
}

func (l *networks) add(p netip.Prefix, verdict bool) {
	if l.of == nil {
		l.of = map[netip.Prefix]bool{}
	}
	l.of[p] = verdict
	lengths := &l.lengths[family(p.Addr())]
	if at, found := slices.BinarySearchFunc(*lengths, p.Bits(), func(a, b int) int { return cmp.Compare(b, a) }); !found {
		*lengths = slices.Insert(*lengths, at, p.Bits())
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// lookup returns the verdict on an address; others is that on those in no
// network.
func (l *networks) lookup(a netip.Addr, others bool) bool {
	for _, bits := range l.lengths[family(a)] {
		p, err := a.Prefix(bits)
		if err != nil {
			break // not an address: who came over a unix socket
		}
		if verdict, ok := l.of[p]; ok {
			return verdict
		}
	}
	return others
}
