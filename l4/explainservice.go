package l4

import (
	"net/netip"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// explainService follows serve in bpf/service.h; it reports whether the flow is
// a service's.
func (e *Explanation) explainService(d *Datapath, hash uint64) bool {
	s := d.serviceOf(e.Tuple)
	if s == nil {
		return false
	}
	vip := s.VIP
	e.VIP, e.Service = &vip, s.Name
	e.say("%s is service %s: packets go to its backends by %s", vip, s.Name, s.Forward)
	switch from := e.Tuple.Src.Addr(); {
	case s.ByClient:
		hash = clientHash(d.steering.Seed, from)
		e.say("affinity client: all flows of %s share a place", from)
	case takesFragments(d.steering, vip.Addr):
		hash = clientHash(d.steering.Seed, from)
		e.say("it takes fragments: ports play no part, all flows of %s share a place", from)
	}
	e.Row = rowOf(hash)
	number := numbersOf(d.have)[lb.VIP{Addr: vip.Addr.Unmap(), Port: vip.Port, Protocol: vip.Protocol}]
	ring := d.have.rings[number]
	if ring == nil || ring[e.Row] == 0 {
		e.say("place %d of its ring is nobody's: no backend takes new flows; dropped (%s)", e.Row, lb.XDPNoBackend)
		e.explainAbsent(s)
		return true
	}
	e.Backend = d.backendAt(ring[e.Row] & 0xffff)
	e.Settled = d.backendAt(ring[e.Row] >> 16 & 0xffff)
	e.say("place %d of its ring is %s's", e.Row, e.Backend)
	if e.Settled.IsValid() && e.Tuple.Protocol == lb.TCP {
		e.say("before, it was %s's: connections that began then stay there for up to %v, those since are written down", e.Settled, s.Hold)
	}
	e.explainAbsent(s)
	return true
}

// serviceOf finds the service at the flow's destination: at its port, or at any.
func (d *Datapath) serviceOf(t lb.Tuple) *lb.SteeredService {
	var anyPort *lb.SteeredService
	for i := range d.steering.Services {
		s := &d.steering.Services[i]
		if s.VIP.Addr.Unmap() != t.Dst.Addr().Unmap() || s.VIP.Protocol != t.Protocol {
			continue
		}
		switch s.VIP.Port {
		case t.Dst.Port():
			return s
		case 0:
			anyPort = s
		}
	}
	if anyPort != nil && d.isWorkers(t) {
		return nil
	}
	return anyPort
}

// isWorkers reports whether the workers serve the flow's very port.
func (d *Datapath) isWorkers(t lb.Tuple) bool {
	for _, v := range d.steering.VIPs {
		if v.Addr.Unmap() == t.Dst.Addr().Unmap() && v.Port == t.Dst.Port() && v.Protocol == t.Protocol {
			return true
		}
	}
	return false
}

func (d *Datapath) backendAt(number uint64) netip.Addr {
	if b, ok := d.have.backends[uint32(number)]; ok {
		return b.address.Addr()
	}
	return netip.Addr{}
}

// maxExplained bounds how many backends an explanation names.
const maxExplained = 20

func (e *Explanation) explainAbsent(s *lb.SteeredService) {
	said := 0
	for _, b := range s.Backends {
		switch {
		case b.Takes:
			continue
		case said == maxExplained:
			e.say("and more backends take nothing")
			return
		case !b.Keeps:
			e.say("%s is down or disabled: its flows go elsewhere", b.ID)
		case b.Weight > 0:
			e.say("%s is drained: it keeps its connections and gets no new ones", b.ID)
		default:
			e.say("%s has no share: its weight is 0, or it is a backup that waits", b.ID)
		}
		said++
	}
}

// serviceSamples are what each backend of each service got.
func (d *Datapath) serviceSamples() (samples []lb.Sample) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kernel == nil {
		return nil
	}
	numbers, index := numbersOf(d.have), inverseBackends(d.have.backends)
	for _, s := range d.steering.Services {
		number := numbers[lb.VIP{Addr: s.VIP.Addr.Unmap(), Port: s.VIP.Port, Protocol: s.VIP.Protocol}]
		share := map[uint64]int{}
		for _, place := range d.have.rings[number] {
			share[place&0xffff]++
		}
		for _, b := range s.Backends {
			n, ok := index[backend{address: bpf.AddressOf(b.Address), service: number}]
			if !ok {
				continue
			}
			got, err := d.kernel.traffic(n)
			if err != nil {
				continue
			}
			labels := []string{"service", s.Name, "backend", b.ID.Address}
			samples = append(samples,
				lb.Sample{Name: "lbd_service_packets_total", Labels: labels, Value: float64(got.Packets)},
				lb.Sample{Name: "lbd_service_bytes_total", Labels: labels, Value: float64(got.Bytes)},
				lb.Sample{Name: "lbd_service_connections_total", Labels: labels, Value: float64(got.Connections)},
				lb.Sample{Name: "lbd_service_share", Labels: labels, Gauge: true, Value: float64(share[uint64(n)]) / lb.Rows})
		}
	}
	return samples
}
