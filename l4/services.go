package l4

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// backend is what a number of the backends' table stands for; the way there is
// not part of it.
type backend struct {
	address bpf.Address
	service uint32
	keeps   bool
}

// placed is what a ring follows from, and its places.
type placed struct {
	shares []share
	places []int16
}

func backendsOf(s lb.Steering) (n int) {
	for _, service := range s.Services {
		n += len(service.Backends)
	}
	return n
}

// planServices numbers services and backends and turns the rings; it returns
// the number of the service at each VIP.
func (p *planner) planServices(s lb.Steering, have tables, want *tables) (map[lb.VIP]uint32, error) {
	if len(s.Services) == 0 {
		clear(p.rings)
		return nil, nil
	}
	known, numbers := numbersOf(have), map[lb.VIP]uint32{}
	index := inverseBackends(have.backends)
	free := freeNumbers(have.services, bpf.Services, 1)
	freeBackend := freeNumbers(have.backends, bpf.Backends, 1)
	for _, one := range s.Services {
		vip := lb.VIP{Addr: one.VIP.Addr.Unmap(), Port: one.VIP.Port, Protocol: one.VIP.Protocol}
		number := known[vip]
		if number == 0 {
			number, _ = free() // limits leave room for all
		}
		numbers[vip] = number
		want.services[number] = serviceOf(one, takesFragments(s, vip.Addr))
		taken := make([]uint32, len(one.Backends)) // their numbers
		for i, b := range one.Backends {
			at := backend{address: bpf.AddressOf(b.Address), service: number}
			n, have := index[at]
			if !have {
				n, _ = freeBackend()
				index[at] = n
			}
			if _, twice := want.backends[n]; twice {
				return nil, fmt.Errorf("service %s has backend %s twice", one.Name, b.Address)
			}
			at.keeps = b.Keeps
			taken[i], want.backends[n] = n, at
		}
		places := p.place(number, one.Backends)
		want.rings[number] = turned(have.rings[number], places, taken, want.backends)
	}
	return numbers, nil
}

// numbersOf finds the services by the VIPs that name them.
func numbersOf(have tables) map[lb.VIP]uint32 {
	numbers := map[lb.VIP]uint32{}
	for _, e := range have.vipTable {
		ports := have.vips[e.VIP]
		for _, p := range ports.Port[:ports.Ports] {
			if p.Service != 0 {
				numbers[lb.VIP{Addr: e.Address.Addr(), Port: binary.BigEndian.Uint16(p.Port[:]), Protocol: lb.Protocol(p.Protocol)}] = p.Service
			}
		}
	}
	return numbers
}

// inverseBackends finds a backend's number, whether it keeps flows or not.
func inverseBackends(have map[uint32]backend) map[backend]uint32 {
	index := make(map[backend]uint32, len(have))
	for n, b := range have {
		b.keeps = false
		index[b] = n
	}
	return index
}

func serviceOf(s lb.SteeredService, fragments bool) bpf.Service {
	out := bpf.Service{Forward: map[string]uint8{"ipip": bpf.ForwardIPIP, "gue": bpf.ForwardGUE, "l2": bpf.ForwardL2}[s.Forward]}
	if s.ByClient || fragments { // ports play no part either way
		out.Flags |= bpf.ServiceByClient
	}
	return out
}

// place divides the ring of a service among its backends.
func (p *planner) place(number uint32, backends []lb.SteeredBackend) []int16 {
	shares := make([]share, len(backends))
	for i, b := range backends {
		shares[i] = share{b.Address.String(), b.Weight, b.Takes}
	}
	if last, ok := p.rings[number]; ok && slices.Equal(last.shares, shares) {
		return last.places
	}
	if p.rings == nil {
		p.rings = map[uint32]placed{}
	}
	p.rings[number] = placed{shares, ring(shares)}
	return p.rings[number].places
}

// turned writes the places as the programs read them: who takes new connections,
// and above it, until it is settled, who has those that were not written down.
// A settled one that is gone, or down, has none.
func turned(have []uint64, places []int16, numbers []uint32, backends map[uint32]backend) []uint64 {
	ring := make([]uint64, len(places))
	for place, i := range places {
		taker := uint32(0)
		if i >= 0 {
			taker = numbers[i]
		}
		var before, settled uint32
		if have != nil {
			before, settled = uint32(have[place]&0xffff), uint32(have[place]>>16&0xffff)
		}
		if settled == 0 && before != taker {
			settled = before
		}
		if !backends[settled].keeps {
			settled = 0
		}
		ring[place] = uint64(taker) | uint64(settled)<<16
	}
	return ring
}

// noteTurn remembers when a ring changed, so that its places are settled in time.
func (d *Datapath) noteTurn(w write) {
	if w.table != tableRings {
		return
	}
	d.turned[w.key.(uint32)] = time.Now()
}

// settleRings ends what a change of backends left behind, once the service's
// hold is over: connections of settled backends that no longer take new ones
// go where new ones go.
func (d *Datapath) settleRings(now time.Time) {
	numbers := numbersOf(d.have)
	for _, s := range d.steering.Services {
		n := numbers[lb.VIP{Addr: s.VIP.Addr.Unmap(), Port: s.VIP.Port, Protocol: s.VIP.Protocol}]
		places := d.have.rings[n]
		since, known := d.turned[n]
		switch {
		case !slices.ContainsFunc(places, func(v uint64) bool { return v>>16 != 0 }):
			delete(d.turned, n)
			continue
		case !known: // it turned in an earlier life of ours
			d.turned[n] = now
			continue
		case now.Sub(since) < s.Hold:
			continue
		}
		places = slices.Clone(places)
		for i := range places {
			places[i] &= 0xffff
		}
		w := write{tableRings, n, places}
		if err := d.kernel.put(w, nil); err != nil {
			d.tolerate(fmt.Errorf("%s: %w", w, err))
			continue
		}
		d.have.record(w)
	}
}

// clientHash is the hash by which a service chooses when all flows of a client
// go to one backend; place_of in bpf/service.h has the same.
func clientHash(seed [16]byte, client netip.Addr) uint64 {
	var b [37]byte
	a := client.As16()
	copy(b[:], a[:])
	return newSip(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])).sum(b[:])
}
