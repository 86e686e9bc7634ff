package h2

import (
	"encoding/binary"
)

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
func (c *Conn) chargeReset() {
	if c.budget.reset(c.now, c.config.Resets) && !c.config.Client {
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

func (c *Conn) onReset(f frame, p []byte) {
	switch {
	case len(p) != 4:
		c.fail(FrameSizeError, "RST_STREAM is not 4 bytes")
		return
	case f.id == 0 || c.idle(f.id):
		c.fail(ProtocolError, "RST_STREAM on an idle stream")
		return
	}
	s := c.streams[f.id]
	if s == nil {
		c.charge()
		return
	}
	code := ErrCode(binary.BigEndian.Uint32(p))
	if code == NoError && s.has(recvEnd) {
		c.unlink(s) // a whole message, and the peer does not want the rest of ours
		c.handler.Closed(s, nil)
		return
	}
	c.drop(s, &StreamError{Code: code, Remote: true, Unprocessed: code == RefusedStream})
	c.chargeReset()
}

func (c *Conn) onWindow(f frame, p []byte) {
	if len(p) != 4 {
		c.fail(FrameSizeError, "WINDOW_UPDATE is not 4 bytes")
		return
	}
	c.charge()
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if f.id == 0 {
		c.onConnWindow(n)
		return
	}
	if c.idle(f.id) {
		c.fail(ProtocolError, "WINDOW_UPDATE on an idle stream")
		return
	}
	s := c.streams[f.id]
	switch {
	case s == nil:
	case n == 0:
		c.streamError(f.id, s, ProtocolError, "WINDOW_UPDATE of 0")
	case s.sendWindow+n > maxWindow:
		c.streamError(f.id, s, FlowControlError, "WINDOW_UPDATE makes the window overflow")
	default:
		s.sendWindow += n
		c.wake(s)
	}
}

func (c *Conn) onConnWindow(n int64) {
	switch {
	case n == 0:
		c.fail(ProtocolError, "WINDOW_UPDATE of 0")
	case c.sendWindow+n > maxWindow:
		c.fail(FlowControlError, "WINDOW_UPDATE makes the window overflow")
	default:
		c.sendWindow += n
	}
}

func (c *Conn) onPing(f frame, p []byte) {
	switch {
	case len(p) != 8:
		c.fail(FrameSizeError, "PING is not 8 bytes")
	case f.id != 0:
		c.fail(ProtocolError, "PING on a stream")
	case f.flags&flagAck != 0:
		c.pong(binary.BigEndian.Uint64(p))
	default:
		c.out.b = append(appendFrame(c.room(), 8, framePing, flagAck, 0), p...)
	}
}

func (c *Conn) onPriority(f frame, p []byte) {
	switch {
	case f.id == 0:
		c.fail(ProtocolError, "PRIORITY on stream 0")
	case len(p) != 5:
		c.streamError(f.id, c.streams[f.id], FrameSizeError, "PRIORITY is not 5 bytes")
	case binary.BigEndian.Uint32(p)&maxWindow == f.id:
		c.streamError(f.id, c.streams[f.id], ProtocolError, "stream depends on itself")
	}
}

// onGoaway ends the streams that the peer never looked at (client).
func (c *Conn) onGoaway(f frame, p []byte) {
	switch {
	case f.id != 0:
		c.fail(ProtocolError, "GOAWAY on a stream")
		return
	case len(p) < 8:
		c.fail(FrameSizeError, "GOAWAY under 8 bytes")
		return
	}
	c.peerGone = true
	last := binary.BigEndian.Uint32(p) & maxWindow
	if !c.config.Client {
		return
	}
	code := ErrCode(binary.BigEndian.Uint32(p[4:]))
	for id, s := range c.streams {
		if id > last {
			c.drop(s, &StreamError{Code: RefusedStream, Remote: true, Unprocessed: true, Reason: "GOAWAY " + code.String()})
		}
	}
}
