// Package bpf holds the kernel half: an XDP program that steers packets, an
// sk_lookup program that steers new connections to listening sockets, and
// their maps, compiled and ready to load.
//
// The C sources are in this directory; read xdp.c first. The compiled object
// and its bindings are committed, so that building needs no clang. After a
// change of a source run go generate (clang 19); a test tells when it was
// forgotten. Only little-endian objects are built.
//
// The types below mirror maps.h; a test compares sizes and offsets.
package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"
)

//go:generate go run ./gen reasons
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types datapath datapath.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
//go:generate go run ./gen sum
//go:generate go generate ../bench/l4

// Limits of the maps.
const (
	Rows     = 65537
	Peers    = 1024
	VIPs     = 4096
	VIPPorts = 64

	VIPBuckets = 2048
	VIPBucket  = 4
	Binds      = 1024
	BindSlots  = 256
	Slots      = 16384
)

// Self is the local index of this node among the peers; 0 is nobody.
const Self = 1

// TunnelPort is the UDP port of encapsulated packets.
const TunnelPort = 6080

// Overhead is what encapsulation adds to a packet: of a single hop, and of
// each further one.
const (
	Overhead     = 40
	HopOverhead  = 4
	Overhead6    = 60 // over IPv6
	HopOverhead6 = 16
)

// Address is an IP address in network order; IPv4 is mapped.
type Address [16]byte

// Flags of a Node.
const (
	NodeTunnels = 1 << iota // tags are set: encapsulated packets are sent and taken
	NodeServes              // at least one slot is live here
)

// Node is what every packet's way depends on.
type Node struct {
	Seed           [2]uint64
	Address        Address
	Tag            [2][4]byte // network order
	View           [2]byte    // network order
	Flags          uint8
	OuterIP        uint8  // bytes of an outer IP header
	Misses         uint32 // sent on per CPU and tick at most; 0: any number
	YoungUntil     uint64
	UnsettledUntil uint64
}

// Clock is the time as the programs see it; a timer of the kernel writes it.
type Clock struct {
	Timer [2]uint64
	Now   uint64 // monotonic ns
}

// Flags of a Peer.
const (
	PeerBounce   = 1 << iota // its interface may send a frame back with XDP_TX
	PeerByKernel             // its interface takes no frames from XDP: a bridge, a tunnel
	PeerDown                 // seems dead: it is not asked about new connections
)

// Peer is a node of the node set and how frames get there from here.
type Peer struct {
	Address    Address
	ValidUntil uint64 // monotonic ns
	Ifindex    uint32
	MTU        uint16
	Flags      uint16
	MACs       [2][6]byte // of its frames: to the next hop, from us
	VLAN       [2]byte    // network order: the tag that its frames carry; 0: none
	_          uint16
}

// Doubt is since when peers' packets carry another view than ours.
type Doubt struct {
	Since, Last uint64 // monotonic ns
	View        [2]byte
	_           [3]uint16
}

// Allowance is how many packets that missed one CPU may still send on.
type Allowance struct{ Tick, Left uint64 }

// Flags of what is Served.
const (
	ServedHere    = 1 << iota // some member lacks the VIP: new connections stay where they arrive
	ServedWasHere             // and they did until lately: this node is asked first
	ServedAway                // it drains here: new connections go to the rows' stand-ins
	ServedWasAway             // and they did until lately: the stand-in is asked, too
)

// Served is what is served at one port of a VIP. Port 0 is any, and comes last.
type Served struct {
	Port     [2]byte // network order
	Protocol uint8
	Flags    uint8
	Service  uint32 // 0: the workers
}

// VIPFragments is a flag of a VIP: it takes fragments, and ports play no part in
// the rows of its packets.
const VIPFragments = 1

// VIP is a VIP address: the first Ports of Port are served. AnyTCP and AnyUDP
// are one of them each, for fragments that name none.
type VIP struct {
	Ports  uint16
	Flags  uint16
	AnyTCP [2]byte // network order
	AnyUDP [2]byte
	Port   [VIPPorts]Served
}

// PathMTU is what a router of the fabric said of the way to a peer.
type PathMTU struct {
	At  uint64 // monotonic ns; 0: nothing was said
	MTU uint32
	_   uint32
}

// VIPEntry is one place of the table of VIPs. Place i is in bucket i/VIPBucket.
type VIPEntry struct {
	Address Address
	VIP     uint32 // number of the VIP, or 0: the place is free
	_       uint32
}

// VIPBucketsOf returns the two buckets that may hold an address; find_vip in
// hash.h asks the same.
func VIPBucketsOf(a Address) (first, second uint32) {
	hash := binary.LittleEndian.Uint64(a[:])*0x9e3779b97f4a7c15 ^ binary.LittleEndian.Uint64(a[8:])
	hash = (hash ^ hash>>32) * 0xbf58476d1ce4e5b9
	hash ^= hash >> 32
	return uint32(hash) % VIPBuckets, uint32(hash>>32) % VIPBuckets
}

// BindKey names a bind: the zero Address is any.
type BindKey struct {
	Address  Address
	Port     uint16
	Protocol uint8
	_        uint8
}

// Bind lists the listening sockets of a bind that take new connections: the
// first Live of Slot are indexes of the slots map.
type Bind struct {
	Live uint32
	Slot [BindSlots]uint16
}

// Reason is an exit of the programs and what happens to the packet there:
// pass, send or drop.
type Reason struct{ Name, Verdict string }

// Objects are the loaded programs and maps.
type Objects = datapathObjects

// Spec returns what is compiled in, not yet loaded.
func Spec() (*ebpf.CollectionSpec, error) { return loadDatapath() }

// AddressOf returns a as the maps hold it.
func AddressOf(a netip.Addr) Address { return a.As16() }

// Addr returns the address; a mapped one as IPv4.
func (a Address) Addr() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// Compare orders addresses by their bytes.
func (a Address) Compare(b Address) int { return bytes.Compare(a[:], b[:]) }
