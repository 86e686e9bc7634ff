package bpf

// NodeCaptured makes a node keep what a Filter asks for.
const NodeCaptured = 0x40

// Limits of what is shown of packets.
const (
	SightBytes = 2048 // of a captured packet, at most
	SightHead  = 24
)

// SightHeader is what comes before a packet's bytes in the rings.
type SightHeader struct {
	At      uint64 // monotonic ns
	Way     uint32 // verdict, and reason << 8
	Ifindex uint32
	Length  uint32 // of the frame
	Kept    uint32 // bytes of it that follow
}

// Filter is which packets are captured; zero is any.
type Filter struct {
	Src, Dst     Address
	Sport, Dport [2]byte // network order
	Protocol     uint8
	Verdict      uint8  // 1 + a verdict
	Reason       uint16 // 1 + a reason
	Bytes        uint32 // of each packet
	_            uint32
	Until        uint64 // monotonic ns
	Left         uint64 // packets
	Lost         uint64 // that the ring had no room for
}
