package h2

import "strings"

const (
	// outTarget is how much DATA is put into the output ahead of the socket;
	// the rest waits on its stream, so that streams share the connection.
	outTarget = 64 << 10
	// outLimit is the output at which the peer must read before we do.
	outLimit = 256 << 10
	// lowMark is the queue of a stream at which its source may go on.
	lowMark = 32 << 10
	// smallFrame is the DATA that earns the peer no control frames, unless it
	// is the last there is: windows of one byte are an attack.
	smallFrame = 256
)

// Output returns the bytes to write next, moving DATA in from the streams that
// may send. It is valid until the next call of any method.
func (c *Conn) Output() []byte {
	if c.failed {
		return nil
	}
	c.pump()
	c.reap()
	if c.out == nil {
		return nil
	}
	return c.out.b[c.written:]
}

// Advance says that the first n bytes of Output are written.
func (c *Conn) Advance(n int) {
	if n == 0 {
		return
	}
	c.written += n
	switch {
	case c.written == len(c.out.b):
		c.releaseOut()
	case c.written >= outTarget:
		c.out.b = c.out.b[:copy(c.out.b, c.out.b[c.written:])]
		c.written = 0
	}
}

// pending is what Output holds already.
func (c *Conn) pending() int {
	if c.out == nil {
		return 0
	}
	return len(c.out.b) - c.written
}

// Congested says that the peer does not read what it made us queue: stop
// reading from it until this is false again.
func (c *Conn) Congested() bool { return c.pending() >= outLimit }

// pump lets every ready stream send a frame in turn.
func (c *Conn) pump() {
	for c.ready != nil && c.err == nil && c.pending() < outTarget {
		s := c.ready
		if s.queue.size > 0 && c.sendWindow <= 0 {
			// Only ends without bytes can go out.
			if s = c.endInRound(); s == nil {
				return
			}
		}
		c.ready = s.next
		c.sendQueued(s)
	}
}

// endInRound finds a stream that needs no window.
func (c *Conn) endInRound() *Stream {
	for s := c.ready.next; s != c.ready; s = s.next {
		if s.queue.size == 0 {
			return s
		}
	}
	return nil
}

// sendQueued moves one frame of s into the output.
func (c *Conn) sendQueued(s *Stream) {
	n := c.fits(s, s.queue.size)
	last := n == s.queue.size && s.has(endQueued)
	if n > 0 || last && !s.has(hasTrailers) {
		end := last && !s.has(hasTrailers)
		b := appendFrame(c.room(), n, frameData, endFlag(end), s.id)
		c.out.b = s.queue.appendTo(b, n)
		c.sentData(s, n)
	}
	if last {
		c.sleep(s)
		if s.has(hasTrailers) {
			c.sendTrailers(s)
		}
		c.sentEnd(s)
		return
	}
	if !s.sendable() {
		c.sleep(s)
	}
	if s.queue.size <= lowMark {
		c.handler.StreamDrained(s)
	}
}

// fits returns how many of n bytes one frame of s may carry now. A window may be
// negative (section 6.9.2), and an end without bytes goes out all the same.
func (c *Conn) fits(s *Stream, n int) int {
	return int(max(0, min(int64(n), frameSize, s.sendWindow, c.sendWindow)))
}

func endFlag(end bool) byte {
	if end {
		return flagEndStream
	}
	return 0
}

// sentData takes n bytes off the windows.
func (c *Conn) sentData(s *Stream, n int) {
	s.sendWindow -= int64(n)
	s.sent += int64(n)
	c.sendWindow -= int64(n)
	if n >= smallFrame || s.queue.size == 0 {
		c.budget.earn(3, c.config.Control)
	}
}

// sentEnd notes our END_STREAM. A server that has answered before the request
// ended asks the client to stop sending (RFC 9113, section 8.1).
func (c *Conn) sentEnd(s *Stream) {
	s.flags |= sendEnd
	if !s.has(recvEnd) {
		if c.config.Client {
			return
		}
		c.sendReset(s.id, NoError)
		s.flags |= recvEnd
		if c.data.stream == s {
			c.data.stream = nil
		}
	}
	c.finish(s)
}

// Write queues body bytes, which are copied. Stop when Buffered is high;
// StreamDrained tells when to go on.
func (c *Conn) Write(s *Stream, p []byte, end bool) {
	if s.has(gone|sendEnd|endQueued) || c.err != nil || c.failed {
		return
	}
	if s.queue.size == 0 && c.ready == nil {
		p = c.writeThrough(s, p, end)
		if s.has(sendEnd) {
			return
		}
	}
	s.queue.write(p)
	if end {
		s.flags |= endQueued
	}
	c.wake(s)
}

// writeThrough puts as much of p as may go at once into the output, past the
// queue, and returns the rest.
func (c *Conn) writeThrough(s *Stream, p []byte, end bool) []byte {
	for c.pending() < outTarget {
		n := c.fits(s, len(p))
		last := end && n == len(p)
		if n == 0 && !last {
			break
		}
		b := appendFrame(c.room(), n, frameData, endFlag(last), s.id)
		c.out.b = append(b, p[:n]...)
		p = p[n:]
		c.sentData(s, n)
		if last {
			c.sentEnd(s)
			break
		}
	}
	return p
}

// section is a header section being written.
type section struct {
	stream   *Stream
	at       int // of its frame header in the output
	deferred bool
}

// BeginHead starts a header or trailer section on s; Field adds to it and
// EndHead sends it. Names are lower-cased. Nothing else may be called between.
func (c *Conn) BeginHead(s *Stream) {
	c.head = section{stream: s}
	if s.has(gone|sendEnd|endQueued) || c.err != nil || c.failed {
		c.head.stream = nil
		return
	}
	if s.queue.size > 0 {
		c.head.deferred = true // trailers, behind the body
		return
	}
	c.startSection()
}

func (c *Conn) startSection() {
	b := c.room()
	c.head.at = len(b)
	c.out.b = c.enc.begin(append(b, "123456789"...))
}

// Field adds a field to the section that BeginHead started.
func (c *Conn) Field(name, value string) {
	switch {
	case c.head.stream == nil:
	case c.head.deferred:
		s := c.head.stream
		s.trailers = append(s.trailers, Field{strings.Clone(name), strings.Clone(value)})
	default:
		c.out.b = c.enc.field(c.out.b, name, value)
	}
}

// EndHead sends the section.
func (c *Conn) EndHead(end bool) {
	s := c.head.stream
	c.head.stream = nil
	switch {
	case s == nil:
	case c.head.deferred:
		s.flags |= endQueued | hasTrailers
		c.wake(s)
	default:
		c.closeSection(s.id, end)
		s.flags |= sentHead
		if end {
			c.sentEnd(s)
		}
	}
}

// sendTrailers writes the section that waited behind the body.
func (c *Conn) sendTrailers(s *Stream) {
	c.startSection()
	for _, f := range s.trailers {
		c.out.b = c.enc.field(c.out.b, f.Name, f.Value)
	}
	c.closeSection(s.id, true)
}

// closeSection writes the frame header of what startSection began, and cuts
// the section into CONTINUATIONs when it is over a frame.
func (c *Conn) closeSection(id uint32, end bool) {
	at := c.head.at
	n := len(c.out.b) - at - headerLen
	if n <= frameSize {
		putFrame(c.out.b[at:], n, frameHeaders, flagEndHeaders|endFlag(end), id)
		return
	}
	block := append([]byte(nil), c.out.b[at+headerLen:]...)
	b := c.out.b[:at]
	kind, flags := byte(frameHeaders), endFlag(end)
	for len(block) > 0 {
		n := min(len(block), frameSize)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		b = append(appendFrame(b, n, kind, flags, id), block[:n]...)
		block = block[n:]
		kind, flags = frameContinuation, 0
	}
	c.out.b = b
}
