package h2

// data is a DATA frame whose payload is on its way in.
type data struct {
	stream *Stream // nil: nobody wants it
	left   int
	pad    int
	end    bool
}

// onData starts a DATA frame and returns how much of b belongs to its header,
// 0 when the pad length has not come.
func (c *Conn) onData(f frame, b []byte) int {
	left, pad := f.length, 0
	if f.flags&flagPadded != 0 {
		if f.length == 0 {
			c.fail(FrameSizeError, "padded DATA without a pad length")
			return 0
		}
		if len(b) == 0 {
			return 0
		}
		pad = int(b[0])
		left -= 1 + pad
	}
	switch {
	case f.id == 0 || c.idle(f.id):
		c.fail(ProtocolError, "DATA on an idle stream")
	case left < 0:
		c.fail(ProtocolError, "padding over the frame")
	case int64(f.length) > c.recvWindow:
		c.fail(FlowControlError, "DATA over the connection's window")
	}
	if c.err != nil {
		return 0
	}
	c.recvWindow -= int64(f.length)
	c.giveConn(int64(f.length - left)) // nobody consumes the padding
	end := f.flags&flagEndStream != 0
	if left == 0 && !end {
		c.charge()
	} else {
		c.budget.earn(1, c.config.Control)
	}
	c.data = data{stream: c.dataStream(f, left), left: left, pad: pad, end: end}
	if left == 0 && c.data.stream != nil && end {
		c.deliver(nil, true)
	}
	if f.flags&flagPadded != 0 {
		return headerLen + 1
	}
	return headerLen
}

// dataStream returns the stream that takes the frame, nil when it is dropped.
func (c *Conn) dataStream(f frame, left int) *Stream {
	s := c.streams[f.id]
	switch {
	case s == nil:
		if !c.ignored(f.id) {
			c.streamError(f.id, nil, StreamClosed, "")
		}
		return nil
	case s.has(recvEnd):
		c.streamError(f.id, s, StreamClosed, "DATA after END_STREAM")
		return nil
	case !s.has(recvHead):
		c.streamError(f.id, s, ProtocolError, "DATA before the head")
		return nil
	case int64(f.length) > s.recvWindow:
		c.streamError(f.id, s, FlowControlError, "DATA over the stream's window")
		return nil
	}
	s.recvWindow -= int64(f.length)
	s.received += int64(left)
	end := f.flags&flagEndStream != 0
	if s.length >= 0 && (s.received > s.length || end && s.received != s.length) || s.has(noBody) && left > 0 {
		c.streamError(f.id, s, ProtocolError, "content does not have its announced length")
		return nil
	}
	if !end {
		c.giveStream(s, int64(f.length-left))
	}
	return s
}

// takeData hands on the payload of a DATA frame as it comes.
func (c *Conn) takeData(p []byte) []byte {
	d := &c.data
	if d.left == 0 {
		n := min(len(p), d.pad)
		d.pad -= n
		return p[n:]
	}
	n := min(len(p), d.left)
	d.left -= n
	if d.stream == nil {
		c.giveConn(int64(n))
		return p[n:]
	}
	c.deliver(p[:n], d.end && d.left == 0)
	return p[n:]
}

// deliver hands body bytes to the handler and gives their window back when
// they are consumed.
func (c *Conn) deliver(p []byte, end bool) {
	s, n := c.data.stream, int64(len(p))
	if end {
		s.flags |= recvEnd
	}
	s.held += n // unlink gives it back when the stream goes during the call
	c.handler.Data(s, p, end)
	if s.has(gone) {
		return
	}
	if !s.has(paused) {
		c.consume(s)
	}
	if end {
		c.data.stream = nil
		c.ended(s)
	}
}

// ended notes END_STREAM of the peer.
func (c *Conn) ended(s *Stream) {
	s.flags |= recvEnd
	if s.has(sendEnd) {
		c.finish(s)
	}
}

// consume gives back the window of all that was delivered.
func (c *Conn) consume(s *Stream) {
	n := s.held
	s.held = 0
	c.giveConn(n)
	if !s.has(recvEnd) {
		c.giveStream(s, n)
	}
}

// giveConn returns n bytes to the connection's window; the peer hears of it
// when half of the window is due.
func (c *Conn) giveConn(n int64) {
	c.recvOwed += n
	if c.recvOwed >= int64(c.config.ConnWindow)/2 && c.err == nil {
		c.out.b = appendWindow(c.room(), 0, uint32(c.recvOwed))
		c.recvWindow += c.recvOwed
		c.recvOwed = 0
	}
}

// giveStream returns n bytes to a stream's window. The first update makes a
// window that is in use as large as Config.StreamWindow.
func (c *Conn) giveStream(s *Stream, n int64) {
	s.recvOwed += n
	if s.recvOwed < s.recvTarget/2 || c.err != nil {
		return
	}
	if more := int64(c.config.StreamWindow) - s.recvTarget; more > 0 {
		s.recvOwed += more
		s.recvTarget += more
	}
	c.out.b = appendWindow(c.room(), s.id, uint32(s.recvOwed))
	s.recvWindow += s.recvOwed
	s.recvOwed = 0
}

// Pause withholds window from the peer: bytes still come, at most a window.
func (c *Conn) Pause(s *Stream) { s.flags |= paused }

// Resume gives the window back.
func (c *Conn) Resume(s *Stream) {
	if s.has(paused) && !s.has(gone) {
		s.flags &^= paused
		c.consume(s)
	}
}
