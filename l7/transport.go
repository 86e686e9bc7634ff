package l7

import (
	"errors"

	"github.com/cirque-lb/lb/l7/loop"
)

// transport is a byte stream under a codec: a *loop.Conn when it is plain, TLS
// over one otherwise. It belongs to one loop and pushes what it reads into its
// loop.User; calls in either direction may be made from within calls of the
// other.
//
// TLS: after the handshake, and after Resume, records that are already decrypted
// or buffered must be pushed although epoll will not fire: Resume arranges for
// that by loop.Later, never from within the call. A FIN without close_notify is
// Ended(errTruncated).
type transport interface {
	Use(u loop.User) // who is told from now on
	Write(p []byte)  // takes all of p; sent at the end of the turn
	Buffered() int   // written, and not yet taken by the kernel
	Blocked() bool   // the kernel takes no more for now; Drained follows
	Unacked() int    // written, and not yet acknowledged by the peer's kernel
	Unread() bool    // the peer's kernel sent something, or FIN, that was not read yet
	Room() int       // what the kernel is sure to take of what is written next
	Fit(n int)       // the next read from the socket takes up to n, or 16 KiB when that is more
	Pause()          // no Received until Resume; a dead connection is told all the same
	Resume()
	CloseWrite() // FIN (TLS: close_notify, FIN) after all that was written
	Finish()     // Close, once all that was written went out or stalls. Nothing is pushed any more
	Close()      // now; what was not sent is dropped. Nothing is pushed any more
}

var _ transport = (*loop.Conn)(nil)

// security describes the TLS under a connection; nil when it is plain.
type security struct {
	ALPN       string
	ServerName string
	Version    uint16
	Subject    string // of the client's verified certificate, or ""
}

// errTruncated ends a TLS stream whose FIN came without close_notify.
var errTruncated = errors.New("connection closed without close_notify")
