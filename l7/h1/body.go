package h1

// Body finds the end of a body. Reset it before each one.
type Body struct {
	framing Framing
	step    step
	done    bool
	left    int64 // of the body, or of the current chunk
	digits  int
	waste   int64 // framing bytes beyond what is reasonable for the data seen
	limits  Limits

	section  section // of the trailers
	buf      []byte  // their bytes
	trailers []Field
}

// step is what comes next in a chunked body.
type step uint8

const (
	chunkSize step = iota
	chunkExt
	chunkLineEnd // LF after the size line's CR
	chunkData
	chunkDataCR
	chunkDataLF
	trailerSection
)

// Reset begins a body. length counts only for framing Length.
func (b *Body) Reset(f Framing, length int64, l *Limits) {
	if cap(b.buf) > keepTrailers {
		clear(b.trailers) // they point into it
		b.buf = nil
	}
	*b = Body{framing: f, limits: *l, buf: b.buf[:0], trailers: b.trailers[:0]}
	if f == Length {
		b.left = length
	}
	b.done = f == None || f == Length && length <= 0
}

// Next takes bytes from the front of p: n of them, of which data (a slice of
// p, perhaps empty) is content. Call it with what is left until everything is
// taken or Done; at least one byte is taken of a non-empty p unless the body is
// done. Bytes after the body are not touched.
//
//	for len(p) > 0 && !b.Done() {
//		data, n, err := b.Next(p)
//		p = p[n:]
//	}
func (b *Body) Next(p []byte) (data []byte, n int, err error) {
	switch {
	case b.done || len(p) == 0:
		return nil, 0, nil
	case b.framing == UntilClose:
		return p, len(p), nil
	case b.framing == Length:
		n = int(min(b.left, int64(len(p))))
		b.left -= int64(n)
		b.done = b.left == 0
		return p[:n], n, nil
	}
	data, n, e := b.chunked(p)
	if e != nil {
		return data, n, e
	}
	return data, n, nil
}

// chunked reads framing (section 7.1) up to the next data.
func (b *Body) chunked(p []byte) (data []byte, n int, err *Error) {
	for n < len(p) && !b.done {
		switch b.step {
		case chunkSize:
			n, err = b.size(p, n)
		case chunkExt:
			n, err = b.extension(p, n)
		case chunkLineEnd:
			n, err = b.lineEnd(p, n)
		case chunkData:
			k := int(min(b.left, int64(len(p)-n)))
			data = p[n : n+k]
			if b.left -= int64(k); b.left == 0 {
				b.step = chunkDataCR
			}
			return data, n + k, nil
		case chunkDataCR, chunkDataLF:
			want := "\r\n"[b.step-chunkDataCR]
			if p[n] != want {
				return nil, n, errChunkEnd
			}
			n++
			if b.step++; b.step > chunkDataLF {
				b.step, b.digits = chunkSize, 0
			}
		case trailerSection:
			n, err = b.trailer(p, n)
		}
		if err != nil {
			return nil, n, err
		}
	}
	return nil, n, nil
}

// size reads hex digits: at least 1, at most 15, so that nothing overflows.
func (b *Body) size(p []byte, n int) (int, *Error) {
	for n < len(p) && class[p[n]]&isHex != 0 {
		if b.digits++; b.digits > 15 {
			return n, errChunkSize
		}
		c := p[n]
		if c > '9' {
			c = c | 0x20 - 'a' + '9' + 1
		}
		b.left = b.left<<4 | int64(c-'0')
		n++
	}
	switch {
	case n == len(p):
		return n, nil
	case b.digits == 0:
		return n, errChunkSize
	case p[n] == '\r':
		b.step = chunkLineEnd
		return n + 1, nil
	case p[n] == ';':
		b.step = chunkExt
		return n, nil
	case p[n] == '\n':
		return n, errChunkLine
	}
	return n, errChunkSize
}

// extension skips chunk extensions; what they cost is bounded by lineEnd and
// here, since a line may be endless.
func (b *Body) extension(p []byte, n int) (int, *Error) {
	end := textEnd(p, n)
	if b.waste += int64(end - n); b.waste > maxWaste {
		return end, errChunkWaste
	}
	if end == len(p) {
		return end, nil
	}
	if p[end] != '\r' {
		return end, errChunkExt
	}
	b.step = chunkLineEnd
	return end + 1, nil
}

// maxWaste bounds framing that carries no data: extensions, and tiny chunks
// (CVE-2023-39326 in another server). Each chunk may cost 16 bytes for free,
// and data pays for framing half its size.
const maxWaste = 16 << 10

func (b *Body) lineEnd(p []byte, n int) (int, *Error) {
	if p[n] != '\n' {
		return n, errChunkLine
	}
	b.waste = max(0, b.waste+int64(b.digits)+4-16-b.left/2)
	if b.step = chunkData; b.left == 0 {
		b.step = trailerSection
	}
	return n + 1, nil
}

const (
	// firstTrailers is how much is copied at first to find trailers in: what is
	// behind them, the next requests perhaps, is copied for nothing.
	firstTrailers = 256
	// keepTrailers is the largest buffer that is kept for the next body.
	keepTrailers = 4 << 10
)

// trailer gathers the trailer section (section 7.1.2), which is nearly always
// an empty line, and reads it.
func (b *Body) trailer(p []byte, n int) (int, *Error) {
	before, limit := len(b.buf), b.limits.head()
	take := min(len(p)-n, limit-before, firstTrailers+before)
	b.buf = append(b.buf, p[n:n+take]...)
	if to := b.section.moved(b.buf); to != nil {
		rebaseAll(b.trailers, nil, to)
	}
	ev, err := b.trailerFields()
	switch {
	case err != nil:
		return n, err
	case ev == endOfSection:
		b.done = true
		return n + b.section.line - before, nil
	case len(b.buf) == limit:
		return n, errManyTrailers
	}
	return n + take, nil
}

func (b *Body) trailerFields() (event, *Error) {
	var f Field
	for {
		ev, underscore, err := b.section.next(b.buf, &f, false)
		if ev != fieldLine {
			return ev, err
		}
		if b.section.lines > b.limits.fields() {
			return refused, errManyTrailers
		}
		if !underscore && mayTrail(f.Name) {
			b.trailers = append(b.trailers, f)
		}
	}
}

// mayTrail: a trailer must not change how the message was framed, routed,
// authorised or read (RFC 9110 section 6.5.1).
func mayTrail(name string) bool {
	if protected(name) {
		return false
	}
	for _, bad := range [...]string{"te", "transfer-encoding", "connection", "keep-alive", "proxy-connection",
		"upgrade", "proxy-authorization", "proxy-authenticate", "max-forwards", "http2-settings", "age", "expires", "vary"} {
		if fold(name, bad) {
			return false
		}
	}
	return true
}

// Done reports whether the body (its trailers included) is whole. A body that
// lasts until close is not done before EOF, an empty one is at once.
func (b *Body) Done() bool { return b.done }

// EOF says what the connection's end means now: nil if the body is whole or
// lasts until close, else ErrTruncated.
func (b *Body) EOF() error {
	if b.framing == UntilClose {
		b.done = true
	}
	if !b.done {
		return ErrTruncated
	}
	return nil
}

// Left is how many bytes of a Length body are still to come, -1 if unknown.
func (b *Body) Left() int64 {
	if b.framing == Chunked || b.framing == UntilClose {
		return -1
	}
	return b.left
}

// Trailers are the trailer fields once the body is done. They live until the
// next Reset. Fields that must not be trailers (framing, routing,
// authentication: RFC 9110 section 6.5.1) are left out.
func (b *Body) Trailers() []Field { return b.trailers }
