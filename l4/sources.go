package l4

import (
	"cmp"
	"net/netip"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

func compareSources(a, b bpf.SourceKey) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Bits, b.Bits))
}

// planSources writes what is known of prefixes; of one that is listed twice
// all that is said holds.
func planSources(all []lb.SteeredSource, want *tables) {
	for _, s := range all {
		key := sourceKey(s.Prefix)
		v := want.sources[key]
		if s.Blocked {
			v.Flags |= bpf.SourceBlocked
		}
		if s.Exempt {
			v.Flags |= bpf.SourceExempt
		}
		if s.Trusted {
			v.Flags |= bpf.SourceTrusted
		}
		want.sources[key] = v
	}
}

func sourceKey(p netip.Prefix) bpf.SourceKey {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return bpf.SourceKey{Bits: uint32(bits), Address: bpf.AddressOf(p.Addr())}
}
