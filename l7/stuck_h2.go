package l7

import (
	"errors"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h2"
)

// A stream is stuck whose client has given no window when it asked, or takes
// nothing of what came for it from one look of dropStalled to the next. It holds a
// connection to a backend, with what both kernels have of the response, up to
// 3 MiB of the 2 GiB that they have for everybody, until it is given up; and a
// hundred of them cost a client one connection and a kilobyte. So when a thread
// has many, clients that have some already get no more.
const (
	stuckMost = 128 // of a thread, until clients are looked at
	stuckEach = 4   // of a client, then
)

var errStuck = errors.New("too many responses wait for the client")

// noteStuck tells the thread how many streams of this client are stuck.
func (c *serverH2) noteStuck() {
	n := max(c.narrow, c.still)
	if c.state != serverHead {
		n = 0
	}
	c.thread.h2.stuck += n - c.stuck
	c.stuck = n
}

// stingy reports whether the client takes too little to be given more.
func (c *serverH2) stingy() bool { return c.stuck >= stuckEach && c.thread.h2.stuck >= stuckMost }

// noteWindow counts a stream that begins without a window.
func (st *streamH2) noteWindow() {
	if st.s.Narrow() {
		st.narrow = true
		st.c.narrow++
		st.c.noteStuck()
	}
}

// closed notes that a stream is gone.
func (st *streamH2) closed() {
	c := st.c
	if st.narrow {
		st.narrow = false
		c.narrow--
		c.noteStuck()
	}
	if c.conn.Streams() == 0 {
		c.quiet = c.thread.loop.Now()
		c.wait()
	}
}

// refuseStingy refuses a new request of a client that takes nothing. It may send
// it again.
func (st *streamH2) refuseStingy() {
	st.endStream(h2.RefusedStream)
	st.x.giveUp(&st.request, &Error{Status: 503, Source: FromClient, Reason: lb.StreamBudget, Err: errStuck})
}
