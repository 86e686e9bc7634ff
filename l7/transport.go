package l7

import (
	"errors"

	"github.com/cirque-lb/lb/l7/loop"
)

// transport is a byte stream under a codec: plain over a loop.Conn, or TLS over
// one. It belongs to one loop. It pushes what it reads into its user; calls in
// either direction may be made from within calls of the other.
//
// TLS: after the handshake, and after resume, records that are already decrypted
// or buffered must be pushed although epoll will not fire: resume arranges for
// that later in the same turn, never from within the call.
type transport interface {
	use(u transportUser) // who is told from now on
	write(p []byte)      // takes all of p; sent at the end of the turn
	buffered() int       // written, and not yet taken by the kernel
	pause()              // no received until resume
	resume()
	closeWrite() // FIN (TLS: close_notify, FIN) after all that was written
	finish()     // as close, after all that was written went out or its time-out; nothing is pushed any more
	close()      // now; what was not sent is dropped. Nothing is pushed any more
	security() *security
}

// transportUser is told what a transport reads.
type transportUser interface {
	// received brings bytes that are valid only during the call.
	received(p []byte)
	// ended says that nothing more is received: io.EOF after a clean end, else
	// why. Called at most once; the transport still wants its close.
	ended(err error)
	// drained says that buffered has fallen to zero after having been above
	// the low mark.
	drained()
}

// security describes the TLS of a transport; nil when it is plain.
type security struct {
	ALPN       string
	ServerName string
	Version    uint16
	Subject    string // of the client's verified certificate, or ""
}

// errTruncated ends a TLS stream whose FIN came without close_notify.
var errTruncated = errors.New("connection closed without close_notify")

// highWater is how many unsent bytes make the other side stop reading.
const highWater = 256 << 10

var _ = loop.ErrClosed
