package bpf

// Limits of the services' maps.
const (
	Services = 512
	Backends = 16384 // of all services
	Flows    = 131072
)

// How a service's packets reach its backends.
const (
	ForwardIPIP = 1 + iota
	ForwardGUE
	ForwardL2
)

// ServiceByClient sends all flows of a client to one backend.
const ServiceByClient = 1

// GUEOverhead is what UDP and GUE add between the outer IP header and the packet.
const GUEOverhead = 12

// Service is an L4 service.
type Service struct {
	Forward uint8
	Flags   uint8
	_       uint16
}

// SourceKey is a prefix of source addresses. Bits of an IPv4 prefix count from
// the beginning of the mapped address: 96 more.
type SourceKey struct {
	Bits    uint32
	Address Address
}

// Flags of a Source.
const (
	SourceBlocked = 1 << iota
	SourceExempt
	SourceTrusted
)

// Source is what is known of a prefix.
type Source struct{ Flags uint32 }

// Limits is how much a source may send in a second; 0: as much as it likes.
type Limits struct{ Packets, SYNs uint32 }

// NodeGuarded makes a node look at sources.
const NodeGuarded = 0x80

// Sources is how many prefixes there may be.
const Sources = 65536

// Flags of a Backend.
const (
	BackendBounce   = 1 << iota // as PeerBounce
	BackendByKernel             // as PeerByKernel
	BackendHere                 // an address of this node
	BackendKeeps                // it is up, or may be: its flows stay
)

// Backend is a backend of a service and how frames get there from here.
type Backend struct {
	Address    Address
	Source     Address
	ValidUntil uint64 // monotonic ns
	Ifindex    uint32
	MTU        uint16
	Flags      uint16
	MACs       [2][6]byte // to the next hop, from us
	Service    uint16
	Life       uint16
}

// Traffic is what a backend got.
type Traffic struct {
	Packets, Bytes uint64
	Connections    uint64
}

// Add adds what another CPU counted.
func (t *Traffic) Add(o Traffic) {
	t.Packets += o.Packets
	t.Bytes += o.Bytes
	t.Connections += o.Connections
}
