package h2

import (
	"hash/maphash"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// encoder writes header sections (RFC 7541). It is ours because hpack.Encoder
// keeps the strings it is given, and those of a request live in an arena that
// is used again; this one copies. It also puts only those fields into the
// dynamic table that were seen twice, so that unique values do not push out
// the ones that repeat.
type encoder struct {
	shared bool // the connection carries requests of several clients

	// The dynamic table: a ring, newest last.
	entries []entry
	hashes  []uint32
	first   int // oldest
	count   int
	size    int
	max     int  // of size
	started bool // max is set
	resized bool // the next section starts with a size update
	cleared bool // which empties the table first

	seen [32]uint32 // hashes of fields that were sent as literals
}

type entry struct {
	data []byte // name and value; the slot keeps the array
	name int    // length of the name
}

const tableSize = 4096

// limit takes the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) limit(v uint32) {
	e.start()
	max := int(min(v, tableSize))
	if max == e.max {
		return
	}
	// A limit that fell and rose again must be told with its lowest value
	// (RFC 7541, section 4.2). We tell 0: x/net's decoder takes a second
	// update only when its table is empty.
	e.cleared = e.cleared || e.resized && max > e.max
	e.max = max
	e.resized = true
	if e.cleared {
		e.count, e.size = 0, 0
	}
	e.evict(0)
}

func (e *encoder) start() {
	if !e.started {
		e.started, e.max = true, tableSize
	}
}

// begin starts a section.
func (e *encoder) begin(b []byte) []byte {
	e.start()
	if e.resized {
		if e.cleared {
			b = append(b, 0x20)
		}
		b = appendInt(b, 0x20, 5, uint64(e.max))
		e.resized, e.cleared = false, false
	}
	return b
}

var seed = maphash.MakeSeed()

// field writes one field, its name in lower case.
func (e *encoder) field(b []byte, name, value string) []byte {
	k := lookup(name)
	if k == nil {
		k = &known{name: lower(name)}
	}
	if i := k.static(value); i > 0 {
		return appendInt(b, 0x80, 7, uint64(i))
	}
	if k.flags&never != 0 {
		return e.literal(b, 0x10, 4, k, value, false)
	}
	if k.flags&unique != 0 || e.shared && k.flags&public == 0 || len(k.name)+len(value) > tableSize/4 {
		return e.literal(b, 0x00, 4, k, value, false)
	}
	h := k.hash
	if h == 0 {
		h = uint32(maphash.String(seed, k.name))
	}
	h = h*31 + uint32(maphash.String(seed, value))
	if i := e.find(h, k.name, value); i > 0 {
		return appendInt(b, 0x80, 7, uint64(i))
	}
	if seen := &e.seen[h%32]; *seen != h {
		*seen = h
		return e.literal(b, 0x00, 4, k, value, false)
	}
	b = e.literal(b, 0x40, 6, k, value, true)
	e.insert(h, k.name, value)
	return b
}

// literal writes a field by its value. Huffman coding is for what stays in the
// table: elsewhere it costs us more than the bytes cost the peer.
func (e *encoder) literal(b []byte, pattern byte, bits uint, k *known, value string, huffman bool) []byte {
	b = appendInt(b, pattern, bits, uint64(k.index))
	if k.index == 0 {
		b = appendString(b, k.name, huffman)
	}
	return appendString(b, value, huffman)
}

func appendString(b []byte, s string, huffman bool) []byte {
	if huffman {
		if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
			b = appendInt(b, 0x80, 7, n)
			return hpack.AppendHuffmanString(b, s)
		}
	}
	b = appendInt(b, 0, 7, uint64(len(s)))
	return append(b, s...)
}

// appendInt writes an integer with a prefix of so many bits (section 5.1).
func appendInt(b []byte, pattern byte, bits uint, v uint64) []byte {
	limit := uint64(1)<<bits - 1
	if v < limit {
		return append(b, pattern|byte(v))
	}
	b = append(b, pattern|byte(limit))
	for v -= limit; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// find returns the index of a field in the dynamic table, 0 without.
func (e *encoder) find(h uint32, name, value string) int {
	mask := len(e.hashes) - 1
	for i := e.count - 1; i >= 0; i-- {
		at := (e.first + i) & mask
		if e.hashes[at] != h {
			continue
		}
		x := &e.entries[at]
		if string(x.data[:x.name]) == name && string(x.data[x.name:]) == value {
			return staticLen + e.count - i
		}
	}
	return 0
}

// insert mirrors what the peer's decoder does with the field.
func (e *encoder) insert(h uint32, name, value string) {
	size := len(name) + len(value) + 32
	e.evict(size)
	if size > e.max {
		return
	}
	if e.count == len(e.entries) {
		e.grow()
	}
	at := (e.first + e.count) & (len(e.entries) - 1)
	x := &e.entries[at]
	x.data = append(append(x.data[:0], name...), value...)
	x.name = len(name)
	e.hashes[at] = h
	e.count++
	e.size += size
}

func (e *encoder) evict(need int) {
	for e.count > 0 && e.size+need > e.max {
		e.size -= len(e.entries[e.first].data) + 32
		e.first = (e.first + 1) & (len(e.entries) - 1)
		e.count--
	}
}

func (e *encoder) grow() {
	n := max(8, 2*len(e.entries))
	entries, hashes := make([]entry, n), make([]uint32, n)
	for i := range e.count {
		at := (e.first + i) & (len(e.entries) - 1)
		entries[i], hashes[i] = e.entries[at], e.hashes[at]
	}
	e.entries, e.hashes, e.first = entries, hashes, 0
}

func lower(name string) string {
	for i := 0; i < len(name); i++ {
		if classes[name[i]]&isUpper != 0 {
			return strings.ToLower(name)
		}
	}
	return name
}
