package h2

import "encoding/binary"

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
	if c.config.Client && code == NoError && s.has(recvEnd) {
		c.unlink(s) // a whole response, and the server does not want the rest of the request
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
