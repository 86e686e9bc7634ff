package h2

// Receive takes bytes of the peer, in pieces of any size. An error is a
// *ConnError: every stream was told (Closed), the GOAWAY is queued.
func (c *Conn) Receive(p []byte, now Now) error {
	if !c.began {
		c.began, c.budget.refilled = true, now
	}
	c.now = now
	c.reap() // streams that the owner ended since are no more to the peer's frames
	for len(p) > 0 && c.err == nil {
		switch {
		case c.preface < len(Preface):
			p = c.takePreface(p)
		case c.data.left+c.data.pad > 0:
			p = c.takeData(p)
		default:
			p = c.takeFrame(p)
		}
		if len(c.finished)+len(c.retired) > 0 {
			c.reap()
		}
	}
	if c.err != nil {
		return c.err
	}
	return nil
}

func (c *Conn) takePreface(p []byte) []byte {
	n := min(len(p), len(Preface)-c.preface)
	if string(p[:n]) != Preface[c.preface:c.preface+n] {
		c.fail(ProtocolError, "no HTTP/2 preface")
		return nil
	}
	c.preface += n
	return p[n:]
}

// takeFrame takes the frame that p starts with or continues, of DATA only the
// header: its payload is handed on as it comes, all else is taken whole.
func (c *Conn) takeFrame(p []byte) []byte {
	if c.in == nil {
		if n := c.frameIn(p); n > 0 {
			return p[n:]
		} else if c.err != nil {
			return nil
		}
		c.in = takeBuffer()
	}
	// The frame is in pieces. At most one more piece of it is copied per call.
	have := len(c.in.b)
	want := c.wanted(c.in.b)
	n := min(len(p), want-have)
	c.in.b = append(c.in.b, p[:n]...)
	if c.frameIn(c.in.b) > 0 && c.in != nil {
		c.in.release()
		c.in = nil
	}
	return p[n:]
}

// wanted says how many bytes it takes to go on with the frame b starts with.
func (c *Conn) wanted(b []byte) int {
	if len(b) < headerLen {
		return headerLen
	}
	f := parseFrame(b)
	if f.kind == frameData {
		return headerLen + 1 // only the pad length is missing
	}
	return headerLen + f.length
}

// frameIn handles the frame at the start of b, if it is whole, and returns how
// much of b it took.
func (c *Conn) frameIn(b []byte) int {
	if len(b) < headerLen {
		return 0
	}
	f := parseFrame(b)
	if !c.admit(f) {
		return 0
	}
	if f.kind == frameData {
		return c.onData(f, b[headerLen:])
	}
	if len(b) < headerLen+f.length {
		return 0
	}
	c.handle(f, b[headerLen:headerLen+f.length])
	return headerLen + f.length
}

// admit checks what the header alone tells. It may run twice for a frame.
func (c *Conn) admit(f frame) bool {
	switch {
	case f.length > frameSize:
		c.fail(FrameSizeError, "frame over 16384 bytes")
	case c.block.id != 0 && (f.kind != frameContinuation || f.id != c.block.id):
		c.fail(ProtocolError, "another frame inside a header section")
	case !c.settled && (f.kind != frameSettings || f.flags&flagAck != 0):
		c.fail(ProtocolError, "the first frame is not SETTINGS")
	}
	return c.err == nil
}

func (c *Conn) handle(f frame, p []byte) {
	switch f.kind {
	case frameHeaders:
		c.onHeaders(f, p)
	case frameContinuation:
		c.onContinuation(f, p)
	case frameReset:
		c.onReset(f, p)
	case frameWindow:
		c.onWindow(f, p)
	case frameSettings:
		c.settled = true
		c.charge()
		c.onSettings(f, p)
	case framePing:
		c.charge()
		c.onPing(f, p)
	case frameGoaway:
		c.charge()
		c.onGoaway(f, p)
	case framePriority:
		c.charge()
		c.onPriority(f, p)
	case framePush:
		c.fail(ProtocolError, "PUSH_PROMISE")
	default:
		c.charge()
	}
}

// charge counts a frame that carries nothing.
func (c *Conn) charge() {
	if c.budget.spend(c.now, c.config.Control) {
		c.fail(EnhanceYourCalm, "too many frames without content")
	}
}

// chargeReset counts a stream that the peer ended early, or made us end.
func (c *Conn) chargeReset() { c.chargeResets(1) }

// Blame counts a stream that the owner Reset for a fault of the peer's which only
// the owner sees: else that would be the way around the budget.
func (c *Conn) Blame() { c.chargeReset() }

func (c *Conn) chargeResets(n int) {
	if n > 0 && c.budget.reset(c.now, n, c.config.Resets) && !c.config.Client {
		c.fail(EnhanceYourCalm, "too many reset streams")
	}
}

// streamError ends one stream for a fault of the peer. s is nil when there is
// no such stream (any more).
func (c *Conn) streamError(id uint32, s *Stream, code ErrCode, why string) {
	c.sendReset(id, code)
	if s != nil {
		c.drop(s, &StreamError{Code: code, Reason: why})
	}
	c.chargeReset()
}

// idle says that no stream of this number was ever opened.
func (c *Conn) idle(id uint32) bool {
	if c.config.Client {
		return id&1 == 0 || id >= c.nextID
	}
	return id&1 == 0 || id > c.lastID
}
