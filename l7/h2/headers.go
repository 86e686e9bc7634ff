package h2

import "encoding/binary"

// onHeaders starts a header section.
func (c *Conn) onHeaders(f frame, p []byte) {
	p, ok := unpad(p, f.flags)
	if !ok || f.id == 0 {
		c.fail(ProtocolError, "HEADERS with bad padding or on stream 0")
		return
	}
	selfish := false
	if f.flags&flagPriority != 0 {
		if len(p) < 5 {
			c.fail(FrameSizeError, "HEADERS without its priority")
			return
		}
		selfish = binary.BigEndian.Uint32(p)&maxWindow == f.id
		p = p[5:]
	}
	b := &c.block
	b.reset()
	b.end = f.flags&flagEndStream != 0
	b.stream = c.streams[f.id]
	if !c.startBlock(f.id) {
		return
	}
	if selfish {
		b.malformed("stream depends on itself")
	}
	b.id = f.id
	c.dec.SetEmitEnabled(true)
	c.fragment(p, f.flags)
}

// startBlock decides what a new section is.
func (c *Conn) startBlock(id uint32) bool {
	b := &c.block
	switch {
	case b.stream != nil:
		return c.startBlockOf(b.stream)
	case c.config.Client && c.idle(id):
		c.fail(ProtocolError, "HEADERS on an idle stream")
	case id&1 == 0:
		c.fail(ProtocolError, "HEADERS on an even stream")
	case !c.config.Client && id > c.lastID:
		c.lastID = id
		c.budget.open(c.now)
		c.budget.earn(1, c.config.Control)
		switch {
		case c.ignored(id):
			b.kind = blockDiscard
		case len(c.streams) >= int(c.config.Streams):
			b.kind = blockRefuse
		}
	case c.ignored(id):
		b.kind = blockDiscard
		c.charge()
	default:
		c.fail(StreamClosed, "HEADERS on a closed stream")
	}
	return c.err == nil
}

func (c *Conn) startBlockOf(s *Stream) bool {
	b := &c.block
	switch {
	case s.has(recvEnd):
		c.streamError(s.id, s, StreamClosed, "HEADERS after END_STREAM")
		b.stream, b.kind = nil, blockDiscard
	case s.has(recvHead):
		b.kind = blockTrailers
		if !b.end {
			b.malformed("trailers without END_STREAM")
		}
	}
	return c.err == nil
}

func (c *Conn) onContinuation(f frame, p []byte) {
	if c.block.id == 0 {
		c.fail(ProtocolError, "CONTINUATION outside a header section")
		return
	}
	c.fragment(p, f.flags)
}

// fragment decodes a piece of a header section.
func (c *Conn) fragment(p []byte, flags byte) {
	b := &c.block
	b.frames++
	b.bytes += len(p)
	if b.frames > maxBlockFrames || b.bytes > maxBlock {
		c.fail(EnhanceYourCalm, "header section too long")
		return
	}
	if _, err := c.dec.Write(p); err != nil {
		c.fail(CompressionError, err.Error())
		return
	}
	if flags&flagEndHeaders == 0 {
		return
	}
	if err := c.dec.Close(); err != nil {
		c.fail(CompressionError, err.Error())
		return
	}
	id := b.id
	b.id = 0
	c.endBlock(id)
}

// endBlock acts on a whole section.
func (c *Conn) endBlock(id uint32) {
	b := &c.block
	s := b.stream
	if b.kind == blockDiscard || s != nil && s.has(gone) {
		return
	}
	b.complete(c)
	switch {
	case b.kind == blockRefuse:
		c.refuse(id)
	case b.bad != "":
		c.reject(id, ProtocolError, b.bad)
	case b.kind == blockTrailers:
		c.onTrailers(s)
	case c.config.Client:
		c.onResponse(s)
	default:
		c.onRequest(id)
	}
}

// refuse turns away a stream over the limit. Before our SETTINGS are
// acknowledged the peer may not know better.
func (c *Conn) refuse(id uint32) {
	err := &StreamError{Code: RefusedStream, Reason: "too many streams"}
	c.handler.Refused(id, &c.block.head, err)
	c.sendReset(id, RefusedStream)
	c.charge()
	if c.acked {
		c.chargeReset()
	}
}

// reject resets the stream of a malformed section.
func (c *Conn) reject(id uint32, code ErrCode, why string) {
	if s := c.block.stream; s != nil {
		c.streamError(id, s, code, why)
		return
	}
	c.handler.Refused(id, &c.block.head, &StreamError{Code: code, Reason: why})
	c.streamError(id, nil, code, why)
}

func (c *Conn) onRequest(id uint32) {
	b := &c.block
	s := c.add(id)
	s.flags |= recvHead
	s.length = b.head.Length
	if b.end {
		s.flags |= recvEnd
	}
	c.handler.Head(s, &b.head, b.end)
	if b.end && !s.has(gone) {
		c.ended(s)
	}
	c.chargeResets(b.cost()) // decoding it was work for nothing, as a reset is
}

func (c *Conn) onResponse(s *Stream) {
	b := &c.block
	if b.head.Status >= 200 || b.head.TooLarge {
		s.flags |= recvHead
		c.budget.earn(1, c.config.Control)
		s.length = b.head.Length
		if b.head.Status == 204 || b.head.Status == 304 {
			s.flags |= noBody
		}
		if s.has(noBody) {
			s.length = -1
		}
	}
	if b.end && s.length > 0 {
		c.reject(s.id, ProtocolError, "content-length without content")
		return
	}
	if b.end {
		s.flags |= recvEnd
	} else if b.head.Status < 200 {
		c.charge()
	}
	c.handler.Head(s, &b.head, b.end)
	if b.end && !s.has(gone) {
		c.ended(s)
	}
}

func (c *Conn) onTrailers(s *Stream) {
	b := &c.block
	if s.length >= 0 && s.received != s.length {
		c.reject(s.id, ProtocolError, "content does not have its announced length")
		return
	}
	if b.head.TooLarge {
		c.reject(s.id, EnhanceYourCalm, "trailers too large")
		return
	}
	s.flags |= recvEnd
	c.handler.Trailers(s, b.head.Fields)
	if !s.has(gone) {
		c.ended(s)
	}
}
