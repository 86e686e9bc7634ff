// Package l4 makes the kernel say what the configuration says: it loads the
// XDP and sk_lookup programs of package bpf, attaches and pins them, and turns
// an lb.Steering into the contents of their maps.
//
// It promises that applying the same Steering twice writes nothing the second
// time, that a target exists before anything names it, and that the packets go
// on when this process dies: what is pinned stays until Detach. Without root,
// BPF or XDP a Datapath still opens; its Report says what is missing and why.
//
// All methods may be called concurrently. Start at Open, then Apply.
package l4

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/cirque-lb/lb"
)

// Options says where and how the datapath runs.
type Options struct {
	Mode       lb.FastpathMode // "" is auto
	Required   bool            // Open fails when an interface cannot be served as asked
	Interfaces []string        // where XDP attaches; none: sk_lookup only
	Pins       string          // a directory on bpffs; v1 is made below it
	Address    netip.Addr      // the node's address, where peers send encapsulated packets
	RunDir     string          // keeps the boot id; on tmpfs
	Log        *slog.Logger    // nil: slog.Default()
}

// Datapath is the kernel half of a node.
type Datapath struct {
	options Options
}

// Report says honestly how packets are steered, and why not better.
type Report struct {
	Interfaces []InterfaceReport `json:"interfaces"`
	Sockets    SocketReport      `json:"sockets"`
	Adopted    bool              `json:"adopted"`            // found pinned by an earlier lbd
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
	Row   int             `json:"row"`           // -1 without a VIP
	Chain []Hop           `json:"chain,omitempty"`
	Bind  *netip.AddrPort `json:"bind,omitempty"` // what sk_lookup matches on this node
	Slot  int             `json:"slot"`           // -1: none here
	Why   []string        `json:"why"`            // one sentence per decision, in order
}

// Hop is one owner in a chain: the first takes new connections.
type Hop struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	Self    bool       `json:"self,omitempty"`
}

// Open loads or adopts the programs, maps and links. An interface that cannot
// be served is in the Report, and an error only when Options.Required.
func Open(o Options) (*Datapath, error) { return nil, errors.ErrUnsupported }

// Boot is this datapath's boot id.
func (d *Datapath) Boot() lb.BootID { return lb.BootID{} }

// Apply makes the kernel say s. It stops at the first error and may then be
// called again: what was written stays and counts as written.
func (d *Datapath) Apply(s lb.Steering) error { return errors.ErrUnsupported }

// Counters returns how many packets left the programs by each reason since
// the maps were made.
func (d *Datapath) Counters() (map[lb.Reason]uint64, error) { return nil, errors.ErrUnsupported }

// Samples returns counters and state as metrics.
func (d *Datapath) Samples() []lb.Sample { return nil }

// Explain says what happens to the packets of a flow under the last Apply.
func (d *Datapath) Explain(t lb.Tuple) Explanation { return Explanation{Tuple: t, Row: -1, Slot: -1} }

// Report says how packets are steered.
func (d *Datapath) Report() Report { return Report{} }

// Close releases what this process holds. Pins, links, maps, VIP routes and
// sysctls stay, so packets go on.
func (d *Datapath) Close() error { return nil }

// Detach removes everything that a Datapath with these pins left in the
// kernel: links, maps, VIP routes.
func Detach(pins string) error { return errors.ErrUnsupported }

// Local reports whether an interface other than lo owns the address: then it
// is not a VIP. Unspecified and loopback addresses are local, too.
func Local(a netip.Addr) (bool, error) { return false, errors.ErrUnsupported }
