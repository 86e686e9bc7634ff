package l7

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// wire is the net.Conn below a tls.Conn: bytes in memory. During the handshake
// its reads block; afterwards they say errWouldBlock, and only the loop calls.
// Writes always take everything, since crypto/tls never forgets a write's error.
type wire struct {
	conn   *tlsConn
	gate   *gate      // of the handshake that reads here; its goroutine's, as inside
	inside bool       // it is through the gate
	server *serverTLS // of the listener, for the handshake; nil at a client

	open   bool   // the handshake is over: the loop alone is here
	gather bool   // writes wait for flush
	own    []byte // received, nobody's but ours
	lent   []byte // received, valid during the call that brought it
	out    []byte // written, to be flushed
	err    error  // what reads say when all is read

	mu     sync.Mutex // guards own, out, err, full while the handshake runs
	ready  sync.Cond  // own or err changed
	full   bool       // the socket is paused until own is read
	posted bool       // flushLater is on its way
}

// maxShaking bounds what is received ahead of a handshake.
const maxShaking = 64 << 10

// errWouldBlock is a temporary net.Error, which crypto/tls does not remember.
var errWouldBlock error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "not yet" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

func (w *wire) init(c *tlsConn) {
	w.conn = c
	w.ready.L = &w.mu
}

// Read is crypto/tls's.
func (w *wire) Read(p []byte) (int, error) {
	if !w.open {
		return w.wait(p)
	}
	if len(w.own) > 0 {
		n := copy(p, w.own)
		if w.own = w.own[n:]; len(w.own) == 0 {
			w.own = nil
		}
		return n, nil
	}
	if len(w.lent) > 0 {
		n := copy(p, w.lent)
		w.lent = w.lent[n:]
		return n, nil
	}
	if w.err != nil {
		return 0, w.err
	}
	return 0, errWouldBlock
}

// wait is Read on the handshake's goroutine. While it waits for the peer, it
// leaves the gate to those who compute.
func (w *wire) wait(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.own) == 0 && w.err == nil {
		w.flushLater()
		w.leave()
		for len(w.own) == 0 && w.err == nil {
			w.ready.Wait()
		}
		w.mu.Unlock()
		err := w.enter()
		w.mu.Lock()
		if err != nil {
			return 0, err
		}
	}
	if len(w.own) == 0 {
		return 0, w.err
	}
	n := copy(p, w.own)
	w.own = w.own[n:]
	if len(w.own) == 0 {
		w.own = nil
		if w.full {
			w.full = false
			w.conn.thread.loop.Post(w.conn.resumeRaw)
		}
	}
	return n, nil
}

// enter and leave are the gate's, as often as they come.
func (w *wire) enter() error {
	err := w.gate.enter()
	w.inside = err == nil
	return err
}

func (w *wire) leave() {
	if w.inside {
		w.inside = false
		w.gate.leave()
	}
}

// flushLater has the loop send what the handshake wrote.
func (w *wire) flushLater() {
	if len(w.out) > 0 && !w.posted {
		w.posted = true
		w.conn.thread.loop.Post(w.flushPosted)
	}
}

func (w *wire) flushPosted() {
	if w.conn.state != tlsClosed {
		w.flush()
	}
}

// flush sends what was written.
func (w *wire) flush() {
	if w.open {
		if w.out != nil {
			w.conn.raw.Write(w.out)
			w.conn.thread.loop.Recycle(w.out[:0])
			w.out = nil
		}
		return
	}
	w.mu.Lock()
	out := w.out
	w.out, w.posted = nil, false
	w.mu.Unlock()
	w.conn.raw.Write(out)
}

// Write is crypto/tls's.
func (w *wire) Write(p []byte) (int, error) {
	switch {
	case !w.open:
		w.mu.Lock()
		w.out = append(w.out, p...)
		w.mu.Unlock()
	case w.gather:
		w.out = w.conn.thread.loop.Append(w.out, p)
	default:
		w.conn.raw.Write(p)
	}
	return len(p), nil
}

// feed brings bytes to the handshake, on the loop.
func (w *wire) feed(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own = append(w.own, p...)
	if len(w.own) > maxShaking && !w.full {
		w.full = true
		w.conn.raw.Pause()
	}
	w.ready.Signal()
}

// fail ends the handshake.
func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.ready.Signal()
}

// lend lets reads have p until keep.
func (w *wire) lend(p []byte) { w.lent = p }

// keep copies what was lent and not read.
func (w *wire) keep() {
	if len(w.lent) > 0 {
		w.own = append(w.own, w.lent...)
	}
	w.lent = nil
}

// Close is net.Conn's, as what follows. Nobody calls them to any effect: the
// loop closes the socket and knows its time-outs.
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return memory{} }
func (w *wire) RemoteAddr() net.Addr             { return memory{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

type memory struct{}

func (memory) Network() string { return "memory" }
func (memory) String() string  { return "memory" }

// gate bounds how many handshakes compute at once, and how many wait for that;
// those that wait for their peer are not counted. The zero gate is ready.
type gate struct {
	once    sync.Once
	running chan struct{}
	waiting atomic.Int64
}

// maxGateWaiting is how many handshakes wait for a processor; more are refused.
const maxGateWaiting = 512

var errBusy = errors.New("too many handshakes at once")

func (g *gate) enter() error {
	g.once.Do(func() { g.running = make(chan struct{}, 2*runtime.NumCPU()) })
	select {
	case g.running <- struct{}{}:
		return nil
	default:
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > maxGateWaiting {
		return errBusy
	}
	g.running <- struct{}{}
	return nil
}

func (g *gate) leave() { <-g.running }
