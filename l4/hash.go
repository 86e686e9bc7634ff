package l4

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/cirque-lb/lb"
)

// flowHash is SipHash-1-3 of the flow's tuple as it is on the wire; bpf/hash.h
// is the same function. The upper half chooses the row, the lower the slot.
func flowHash(seed [16]byte, t lb.Tuple) uint64 {
	var b [37]byte
	tuple := appendTuple(b[:0], t)
	s := newSip(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:]))
	return s.sum(tuple)
}

// appendTuple writes source address, destination address, both ports and the
// protocol in network order: 13 bytes for IPv4, 37 for IPv6.
func appendTuple(b []byte, t lb.Tuple) []byte {
	b = append(b, unmapped(t.Src.Addr())...)
	b = append(b, unmapped(t.Dst.Addr())...)
	b = binary.BigEndian.AppendUint16(b, t.Src.Port())
	b = binary.BigEndian.AppendUint16(b, t.Dst.Port())
	return append(b, byte(t.Protocol))
}

func unmapped(a netip.Addr) []byte { return a.Unmap().AsSlice() }

// rowOf reduces the upper half of a hash modulo lb.Rows, which is 1<<16 + 1.
func rowOf(hash uint64) int { return int(uint32(hash>>32) % lb.Rows) }

// slotOf maps the lower half of a hash to one of n slots.
func slotOf(hash uint64, n int) int { return int(uint64(uint32(hash)) * uint64(n) >> 32) }

type sip struct{ a, b, c, d uint64 }

func newSip(k0, k1 uint64) *sip {
	return &sip{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
}

func (s *sip) round() {
	s.a += s.b
	s.b = bits.RotateLeft64(s.b, 13) ^ s.a
	s.a = bits.RotateLeft64(s.a, 32)
	s.c += s.d
	s.d = bits.RotateLeft64(s.d, 16) ^ s.c
	s.a += s.d
	s.d = bits.RotateLeft64(s.d, 21) ^ s.a
	s.c += s.b
	s.b = bits.RotateLeft64(s.b, 17) ^ s.c
	s.c = bits.RotateLeft64(s.c, 32)
}

func (s *sip) word(w uint64) {
	s.d ^= w
	s.round()
	s.a ^= w
}

func (s *sip) sum(p []byte) uint64 {
	last := uint64(len(p)) << 56
	for ; len(p) >= 8; p = p[8:] {
		s.word(binary.LittleEndian.Uint64(p))
	}
	for i, b := range p {
		last |= uint64(b) << (8 * i)
	}
	s.word(last)
	s.c ^= 0xff
	s.round()
	s.round()
	s.round()
	return s.a ^ s.b ^ s.c ^ s.d
}
