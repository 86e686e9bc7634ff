package loop

// Sizes of the buffers that a loop keeps for reuse.
var sizes = [...]int{4 << 10, 16 << 10, 64 << 10, MaxIO}

// kept is how many spare buffers of each size a loop holds on to.
var kept = [...]int{256, 64, 32, 16}

// buffers are the spare ones, by size.
type buffers [len(sizes)][][]byte

// Buffer returns an empty slice with room for at least n bytes.
func (l *Loop) Buffer(n int) []byte {
	for i, size := range sizes {
		if n > size {
			continue
		}
		if spare := l.spare[i]; len(spare) > 0 {
			b := spare[len(spare)-1]
			l.spare[i] = spare[:len(spare)-1]
			return b
		}
		return make([]byte, 0, size)
	}
	return make([]byte, 0, n)
}

// Recycle takes a buffer back. One of a size of its own is left to the garbage
// collector.
func (l *Loop) Recycle(b []byte) {
	for i, size := range sizes {
		if cap(b) == size && len(l.spare[i]) < kept[i] {
			l.spare[i] = append(l.spare[i], b[:0])
			return
		}
	}
}

// Append appends p to b, a buffer of this loop or nil, moving to a larger
// buffer when it must.
func (l *Loop) Append(b, p []byte) []byte {
	if need := len(b) + len(p); need > cap(b) {
		larger := append(l.Buffer(need), b...)
		l.Recycle(b)
		b = larger
	}
	return append(b, p...)
}
