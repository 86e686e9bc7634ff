package l4

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bpf"
)

// Report says honestly how packets are steered, and why not better.
type Report struct {
	Interfaces []InterfaceReport `json:"interfaces"`
	Sockets    SocketReport      `json:"sockets"`
	Adopted    bool              `json:"adopted"`            // found pinned by an earlier lbd
	MSS        int               `json:"mss,omitempty"`      // VIPs ask clients for segments of at most so many bytes; 0: as they like
	Notes      []string          `json:"notes,omitempty"`    // what is slower than it could be elsewhere, and all this host can do
	Problems   []string          `json:"problems,omitempty"` // what else does not hold: VIP routes, sysctls, peers without a next hop
}

// InterfaceReport is how XDP runs on one interface.
type InterfaceReport struct {
	Name string          `json:"name"`
	Mode lb.FastpathMode `json:"mode"`          // native, generic or off
	Why  string          `json:"why,omitempty"` // why it is not native
}

// SocketReport is whether new connections are given to slots by sk_lookup.
type SocketReport struct {
	Steered bool   `json:"steered"`
	Why     string `json:"why,omitempty"` // why the kernel hashes instead
}

// Mode is the worst mode of all interfaces: off when there is none.
func (r Report) Mode() lb.FastpathMode {
	if len(r.Interfaces) == 0 {
		return lb.FastpathOff
	}
	worst := lb.FastpathNative
	for _, i := range r.Interfaces {
		switch i.Mode {
		case lb.FastpathOff:
			return lb.FastpathOff
		case lb.FastpathGeneric:
			worst = lb.FastpathGeneric
		}
	}
	return worst
}

// Explanation is what happens to packets of one flow, and why.
type Explanation struct {
	Tuple lb.Tuple        `json:"tuple"`
	VIP   *lb.VIP         `json:"vip,omitempty"` // nil: not steered, the kernel decides
	Row   int             `json:"row"`           // -1 without a VIP, or the place in a service's ring
	Chain []Hop           `json:"chain,omitempty"`
	Bind  *netip.AddrPort `json:"bind,omitempty"` // what sk_lookup matches on this node
	Slot  int             `json:"slot"`           // -1: none here

	Service string     `json:"service,omitempty"` // whose packets these are
	Backend netip.Addr `json:"backend,omitzero"`  // where a new flow goes
	Settled netip.Addr `json:"settled,omitzero"`  // where a connection goes that began before Backend took its place

	Why []string `json:"why"` // one sentence per decision, in order
}

// Hop is one owner in a chain: the first takes new connections.
type Hop struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	Self    bool       `json:"self,omitempty"`
}

// Counters returns how many packets left the programs by each reason since
// the maps were made.
func (d *Datapath) Counters() (map[lb.Reason]uint64, error) {
	if d.kernel == nil {
		return nil, nil
	}
	sums, err := d.kernel.counters()
	if err != nil {
		return nil, err
	}
	counters := make(map[lb.Reason]uint64, len(sums))
	for i, n := range sums {
		counters[lb.Reason(bpf.Reasons[i].Name)] = n
	}
	return counters, nil
}

// Samples returns counters and state as metrics.
func (d *Datapath) Samples() []lb.Sample {
	var samples []lb.Sample
	for _, i := range d.Report().Interfaces {
		samples = append(samples, lb.Sample{
			Name: "lbd_fastpath_mode", Labels: []string{"interface", i.Name, "mode", string(i.Mode)}, Gauge: true, Value: 1,
		})
	}
	counters, err := d.Counters()
	if err != nil || counters == nil {
		return samples
	}
	samples = append(samples, lb.Sample{Name: "lbd_stragglers_destroyed_total", Value: float64(d.destroyed.Load())})
	for _, r := range bpf.Reasons {
		samples = append(samples, lb.Sample{
			Name:   "lbd_xdp_packets_total",
			Labels: []string{"reason", r.Name, "verdict", r.Verdict},
			Value:  float64(counters[lb.Reason(r.Name)]),
		})
	}
	return append(samples, d.serviceSamples()...)
}

// Report says how packets are steered.
func (d *Datapath) Report() Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.report
	r.Interfaces, r.MSS = slices.Clone(r.Interfaces), d.mss
	r.Notes = slices.Sorted(maps.Keys(d.slow))
	r.Problems = slices.Concat(r.Problems, d.trouble, slices.Sorted(maps.Keys(d.unknown)))
	return r
}
