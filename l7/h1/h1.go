// Package h1 is the HTTP/1 codec: bytes in, messages out, and back (RFC 9112).
//
// It does no I/O, reads no clock and starts no goroutine, so it can be tested
// by tables and fuzzing and cannot block. In steady state it allocates nothing.
//
//	n, err := req.Parse(buf, &limits)   // n == 0 && err == nil: call again with more bytes
//	body.Reset(req.Framing, req.Length, &limits)
//	data, n, err := body.Next(p)        // until body.Done()
//	dst = h1.AppendResponse(dst, 200, "", fields, h1.Out{Framing: h1.Chunked})
//
// Strings of a parsed head point into the buffer that was given to the Parse
// call that returned n > 0: they live until those bytes change. While Parse
// asks for more, the buffer may grow or move between calls.
//
// What is refused is refused for good: after an error the connection's framing
// is in doubt and it must be closed (after an answer, on the request side).
// Which bytes are accepted does not depend on the pieces they arrive in.
//
// Values are not safe for concurrent use; a connection owns its own.
// Start at Request.Parse, then Body.
package h1

// Field is one field line. The name is as the peer wrote it (compare by fold),
// the value has no white space around it.
type Field struct{ Name, Value string }

// Limits bound a head and a trailer section. Zero values take the defaults.
type Limits struct {
	Head   int // bytes of a whole head, or of a trailer section; default 64 KiB
	URI    int // bytes of a request target; default 16 KiB
	Fields int // field lines; default 100
}

// Framing says how the end of a body is found (RFC 9112 section 6.3).
type Framing uint8

// The framings.
const (
	None       Framing = iota // no body follows
	Length                    // so many bytes follow; perhaps 0
	Chunked                   // chunks, then perhaps trailers
	UntilClose                // responses only: the body ends with the connection
)

// Request is the head of a request. Parse fills it in; the exported fields are
// the reader's to change once Parse returned n > 0.
type Request struct {
	Method   string
	Target   string // in origin form, byte-exact, or "*": what goes on the next request line
	Path     string // Target up to the first "?"
	RawQuery string // what follows the "?"
	Scheme   string // "http" or "https" when the target came in absolute form, else ""
	Host     string // the Host field's value, with its port; "" only in HTTP/1.0
	Minor    int    // 0 for HTTP/1.0, 1 for everything newer
	// Fields are the end-to-end fields in wire order. Left out are: Host; what
	// frames the body (Content-Length, Transfer-Encoding); what concerns the
	// connection only (RFC 9110 section 7.6.1: Connection and what it
	// nominates, Keep-Alive, Proxy-Connection, Proxy-Authorization, TE,
	// Upgrade, HTTP2-Settings), except that a nomination of a field that
	// somebody depends on (Host, X-Forwarded-*, Cookie...) is an attack and
	// ignored; and names with an underscore: some origins read it as a hyphen,
	// so such a name could forge a field that we own.
	Fields  []Field
	Framing Framing // None, Length or Chunked
	Length  int64   // of the body; -1 when Framing is Chunked

	Close     bool   // the connection ends after this exchange, by the client's wish or its version
	Expect100 bool   // the client waits for 100 (Continue) before it sends the body
	Upgrade   string // the Upgrade field's value if Connection nominates it; "" for h2c, which we do not offer
	Dropped   int    // field lines left out because of an underscore

	state headState
}

// Response is the head of a response.
type Response struct {
	Status int
	Reason string
	Minor  int
	Fields []Field // the end-to-end fields in wire order, as in a Request; underscores stay

	Framing Framing
	// Length is what Content-Length declares, -1 without one. With Framing
	// None it describes a body that does not follow (HEAD, 304).
	Length int64
	// Close: the connection cannot be used again, by the origin's wish, its
	// version, or because its framing is in doubt (RFC 9112 section 6.3).
	Close   bool
	Upgrade string // the Upgrade field's value if Connection nominates it

	state headState
}

// Out is what the encoder decides about a message besides its fields. It alone
// writes Content-Length, Transfer-Encoding, Connection, Keep-Alive,
// Proxy-Connection and Upgrade (and Host); such fields in a message are skipped,
// and a CR, LF or NUL in a field becomes a space, so that no message can be
// split by what a filter puts in it.
type Out struct {
	// Framing and Length: Length writes Content-Length, Chunked writes
	// Transfer-Encoding. Of a response, None with Length >= 0 writes a
	// Content-Length without a body following (HEAD, 304; an empty 200);
	// None with Length -1 writes neither. 1xx and 204 never get either.
	Framing   Framing
	Length    int64
	Close     bool   // Connection: close
	KeepAlive bool   // Connection: keep-alive, for HTTP/1.0 clients
	Upgrade   string // Connection: upgrade, and Upgrade: this
	// Parsed is the head whose parsed form the fields come from, or nil. Names and
	// values that lie in it are not looked at again, so nobody may have changed the
	// fields since: a part of a value is no name.
	Parsed []byte
}
