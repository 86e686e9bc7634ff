package h2

import "encoding/binary"

// hello queues the preface of our side: SETTINGS and the connection's window.
func (c *Conn) hello() {
	b := c.room()
	if c.config.Client {
		b = append(b, Preface...)
	}
	at := len(b)
	b = appendFrame(b, 0, frameSettings, 0, 0)
	if c.config.Client {
		b = appendSetting(b, settingPush, 0)
	} else {
		b = appendSetting(b, settingStreams, c.config.Streams)
	}
	b = appendSetting(b, settingHeaderList, c.config.HeaderList)
	if c.config.Connect && !c.config.Client {
		b = appendSetting(b, settingConnect, 1)
	}
	putFrame(b[at:], len(b)-at-headerLen, frameSettings, 0, 0)
	if more := c.config.ConnWindow - defaultWindow; more > 0 {
		b = appendWindow(b, 0, more)
	}
	c.out.b = b
}

// onSettings applies what the peer announces.
func (c *Conn) onSettings(f frame, p []byte) {
	switch {
	case f.id != 0:
		c.fail(ProtocolError, "SETTINGS on a stream")
		return
	case f.flags&flagAck != 0:
		if len(p) != 0 {
			c.fail(FrameSizeError, "SETTINGS ACK with a payload")
		}
		c.acked = true
		return
	case len(p)%6 != 0:
		c.fail(FrameSizeError, "SETTINGS of a length that is no multiple of 6")
		return
	}
	for ; len(p) > 0 && c.err == nil; p = p[6:] {
		c.setting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
	}
	if c.err == nil {
		c.out.b = appendFrame(c.room(), 0, frameSettings, flagAck, 0)
	}
}

func (c *Conn) setting(id uint16, v uint32) {
	switch id {
	case settingTableSize:
		c.enc.limit(v)
	case settingPush:
		if v > 1 || v == 1 && c.config.Client {
			c.fail(ProtocolError, "ENABLE_PUSH is not allowed to be that")
		}
	case settingStreams:
		c.peerStreams = v
	case settingWindow:
		c.setWindow(v)
	case settingFrameSize:
		if v < frameSize || v > 1<<24-1 {
			c.fail(ProtocolError, "MAX_FRAME_SIZE out of range")
		}
	case settingConnect:
		if v > 1 {
			c.fail(ProtocolError, "ENABLE_CONNECT_PROTOCOL is neither 0 nor 1")
			return
		}
		c.peerConnect = v == 1
	}
}

// setWindow changes what the peer takes on every stream; a window may become
// negative (section 6.9.2).
func (c *Conn) setWindow(v uint32) {
	if v > maxWindow {
		c.fail(FlowControlError, "INITIAL_WINDOW_SIZE over 2^31-1")
		return
	}
	delta := int64(v) - int64(c.peerWindow)
	c.peerWindow = v
	for _, s := range c.streams {
		if s.sendWindow += delta; s.sendWindow > maxWindow {
			c.fail(FlowControlError, "INITIAL_WINDOW_SIZE makes a window overflow")
			return
		}
		c.wake(s)
	}
}
