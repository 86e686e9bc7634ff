package h2

import "sync"

// Stream is one exchange of messages. It is pooled: drop the pointer when
// Closed or Reset is through.
type Stream struct {
	Owner any // the owner's

	id    uint32
	flags streamFlags

	// The way in.
	recvWindow int64 // what the peer may still send
	recvTarget int64 // what the window is filled up to
	recvOwed   int64 // consumed and not yet given back
	held       int64 // delivered while paused
	length     int64 // content-length that was announced, -1 without
	received   int64

	// The way out.
	sendWindow int64
	sent       int64
	queue      queue
	trailers   []Field // wait behind queue
	next, prev *Stream // in Conn.ready
}

type streamFlags uint16

const (
	recvHead    streamFlags = 1 << iota // the final head came
	recvEnd                             // END_STREAM came
	sendEnd                             // END_STREAM is in the output
	endQueued                           // END_STREAM goes out behind queue
	hasTrailers                         // with trailers
	sentHead                            // something was sent on it
	paused                              // the consumer takes no more
	noBody                              // the response has none, whatever it says
	ready                               // linked in Conn.ready
	done                                // both halves ended; the handler will hear
	gone                                // not in Conn.streams any more
)

var streamPool = sync.Pool{New: func() any { return new(Stream) }}

func (s *Stream) has(f streamFlags) bool { return s.flags&f != 0 }

// ID is the stream's number.
func (s *Stream) ID() uint32 { return s.id }

// Buffered returns how many bytes wait to be sent on s.
func (s *Stream) Buffered() int { return s.queue.size }

// Stalled says that the peer gives no window for s.
func (c *Conn) Stalled(s *Stream) bool { return s.sendWindow <= 0 || c.sendWindow <= 0 }

// Narrow says that the peer has room for next to nothing on s.
func (s *Stream) Narrow() bool { return s.sendWindow < smallFrame }

// Room returns how much of what is written next on s goes out without waiting
// for the peer, and not more than is good for the other streams.
func (c *Conn) Room(s *Stream) int {
	free := int64(outTarget - c.pending() - s.queue.size)
	return int(max(0, min(free, s.sendWindow, c.sendWindow)))
}

// Sent returns how many body bytes went out: it shows whether the peer takes
// what is Buffered.
func (s *Stream) Sent() int64 { return s.sent }

// Finished says that the end of our message was written or queued.
func (s *Stream) Finished() bool { return s.has(sendEnd | endQueued) }

// add makes a stream.
func (c *Conn) add(id uint32) *Stream {
	s := streamPool.Get().(*Stream)
	s.id = id
	s.length = -1
	s.sendWindow = int64(c.peerWindow)
	s.recvWindow, s.recvTarget = defaultWindow, defaultWindow
	c.streams[id] = s
	return s
}

// finish notes that both halves of s ended; reap tells the handler.
func (c *Conn) finish(s *Stream) {
	if !s.has(done | gone) {
		s.flags |= done
		c.finished = append(c.finished, s)
	}
}

// reap tells the handler about the streams that ended, and pools all that are
// gone. It runs at the end of a frame and of a turn, never inside a call of the
// handler, so that code above a callback may still look at its stream.
func (c *Conn) reap() {
	for i := 0; i < len(c.finished); i++ {
		if s := c.finished[i]; !s.has(gone) {
			c.unlink(s)
			c.handler.Closed(s, nil)
		}
	}
	c.finished = c.finished[:0]
	for i, s := range c.retired {
		clear(s.trailers)
		*s = Stream{trailers: s.trailers[:0]}
		streamPool.Put(s)
		c.retired[i] = nil
	}
	c.retired = c.retired[:0]
}

// unlink takes s out of everything that names it. What its reader did not
// consume returns to the connection's window.
func (c *Conn) unlink(s *Stream) {
	s.flags |= gone
	c.sleep(s)
	delete(c.streams, s.id)
	if c.data.stream == s {
		c.data.stream = nil
	}
	if c.block.stream == s {
		c.block.stream, c.block.kind = nil, blockDiscard
	}
	s.queue.clear()
	c.giveConn(s.held)
	s.held = 0
	c.retired = append(c.retired, s)
}

// drop ends s early and tells the handler.
func (c *Conn) drop(s *Stream, err error) {
	if !s.has(gone) {
		c.unlink(s)
		c.handler.Closed(s, err)
	}
}

// Reset ends a stream at once; s is gone when it returns.
func (c *Conn) Reset(s *Stream, code ErrCode) {
	if s.has(gone) {
		return
	}
	if !s.has(done) && c.err == nil {
		c.sendReset(s.id, code)
	}
	c.unlink(s)
}

// forgets is how many streams that we reset are remembered: more than a peer has
// open at once by our default, all of which may be answered before their bodies end.
const forgets = 256

// sendReset queues RST_STREAM and remembers the stream, on which frames may
// still be under way.
func (c *Conn) sendReset(id uint32, code ErrCode) {
	c.out.b = appendReset(c.room(), id, code)
	if c.forgotten == nil {
		c.forgotten = new([forgets]uint32)
	}
	c.forgotten[c.forgottenAt%forgets] = id
	c.forgottenAt++
}

// ignored says that frames on a closed stream are no fault of the peer: it may
// not yet know of our RST_STREAM or GOAWAY.
func (c *Conn) ignored(id uint32) bool {
	if c.lastTaken != nil && id > *c.lastTaken {
		return true
	}
	if c.forgotten == nil {
		return false
	}
	for _, f := range c.forgotten {
		if f == id {
			return true
		}
	}
	return false
}

// wake links s into the round of streams that have something to send and the
// window for it.
func (c *Conn) wake(s *Stream) {
	if s.has(ready|gone|sendEnd) || !s.sendable() {
		return
	}
	s.flags |= ready
	if c.ready == nil {
		c.ready, s.next, s.prev = s, s, s
		return
	}
	s.next, s.prev = c.ready, c.ready.prev
	s.prev.next, s.next.prev = s, s
}

// sleep takes s out of the round.
func (c *Conn) sleep(s *Stream) {
	if !s.has(ready) {
		return
	}
	s.flags &^= ready
	if s.next == s {
		c.ready = nil
	} else {
		s.prev.next, s.next.prev = s.next, s.prev
		if c.ready == s {
			c.ready = s.next
		}
	}
	s.next, s.prev = nil, nil
}

// sendable says whether s has bytes with a window, or an end without bytes.
func (s *Stream) sendable() bool {
	if s.queue.size > 0 {
		return s.sendWindow > 0
	}
	return s.has(endQueued)
}
