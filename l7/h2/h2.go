// Package h2 is an HTTP/2 connection (RFC 9113) without I/O: bytes in, events
// out; messages in, bytes out. It has no socket, no clock and no goroutine, and
// plays either role.
//
// The owner feeds what it read to Conn.Receive, which calls the Handler, and
// writes what Conn.Output returns, telling Conn.Advance how much the socket
// took. A Conn and its Streams belong to one loop; nothing here locks. Start at
// Conn.Receive for the way in and Conn.Output for the way out.
//
// What is promised: a malformed message never reaches the Handler; a message
// that was cut short never looks complete; every buffer is bounded (while
// Conn.Congested the owner must not read from the peer); a peer that makes us
// work for nothing is told to calm down and dropped.
package h2

import (
	"errors"
	"fmt"
	"time"
)

// Preface is what a client sends before its first frame.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Field is one line of a header or trailer section.
type Field struct{ Name, Value string }

// Head is the first header section of a message. The Head and its Fields slice
// live as long as the call that brings them; the strings live on.
type Head struct {
	Method    string // of a request, as the five below
	Scheme    string
	Authority string // empty when the request has none
	Path      string
	Protocol  string // extended CONNECT (RFC 8441)

	Status int // of a response; 1xx heads come before the final one

	Length   int64   // content-length, -1 without
	Fields   []Field // in wire order, no pseudo-fields; cookie crumbs joined
	TooLarge bool    // over the limits: Fields is not whole, the answer is 431
}

// Handler is told what the peer sent. It may call any method of the Conn
// except Receive, Output and Fail.
type Handler interface {
	// Head brings a request to a server (a new stream), a response to a client.
	Head(s *Stream, h *Head, end bool)
	// Data brings body bytes, valid during the call. They count as consumed
	// unless the stream is paused.
	Data(s *Stream, p []byte, end bool)
	// Trailers ends a message with a trailer section.
	Trailers(s *Stream, fields []Field)
	// StreamDrained says that what was queued on s has fallen to its low mark.
	StreamDrained(s *Stream)
	// Closed is the last word about s, whose pointer must be dropped: nil when
	// both halves ended, else a *StreamError, or what broke the connection.
	// It is not called for streams that the owner reset.
	Closed(s *Stream, err error)
	// Refused tells of a request that was reset before it became a stream of
	// the handler: malformed, or one too many. h is what is known of it.
	Refused(id uint32, h *Head, err *StreamError)
}

// Config bounds a connection. The zero value has the defaults; it may be shared.
type Config struct {
	Client       bool   // our role
	Streams      uint32 // the peer may have open at once: 100
	StreamWindow uint32 // receive window of a busy stream: 256 KiB, it starts with 64 KiB
	ConnWindow   uint32 // receive window of the connection: 1 MiB
	HeaderList   uint32 // bytes of a decoded header list, 32 more per field: 64 KiB
	Fields       int    // fields of a header list: 100
	Resets       int    // streams that end by a reset of either side, per 10 s: 100
	Control      int    // frames that carry nothing, at once; a tenth of it comes back per second: 1000
	Connect      bool   // offer extended CONNECT (RFC 8441)
}

// ErrCode is an error code of RFC 9113, section 7.
type ErrCode uint32

// The error codes.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	ConnectError       ErrCode = 0xa
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
	HTTP11Required     ErrCode = 0xd
)

var codeNames = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
	"STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR",
	"ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}

func (c ErrCode) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("error code 0x%x", uint32(c))
}

// StreamError is why one stream ended early.
type StreamError struct {
	Code   ErrCode
	Remote bool // the peer reset it, or went away before it looked at it
	// Unprocessed: the peer did nothing with the request; it may be sent again.
	Unprocessed bool
	Reason      string
}

func (e *StreamError) Error() string {
	who := "reset stream"
	if e.Remote {
		who = "stream reset by peer"
	}
	if e.Reason == "" {
		return who + ": " + e.Code.String()
	}
	return who + ": " + e.Code.String() + ": " + e.Reason
}

// ConnError is why a connection ended. The GOAWAY that tells the peer is in the
// output already: write it out, then close.
type ConnError struct {
	Code   ErrCode
	Reason string
}

func (e *ConnError) Error() string { return "connection error " + e.Code.String() + ": " + e.Reason }

// ErrNoStream is Open's answer when the connection takes no more streams now:
// the peer's limit is reached, or either side is going away.
var ErrNoStream = errors.New("no stream available")

// Now is a monotonic time that the owner chooses; only differences matter.
type Now = time.Duration
