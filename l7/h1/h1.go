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

// Parse reads one request head from the beginning of buf and returns its
// length. With n == 0 and err == nil the head is not whole: call Parse again
// with the same bytes and more behind them. A call after n > 0, after an error
// or after Reset begins a new head. Errors are of type *Error; the fields read
// until then are kept for the log line.
//
// Bytes that are already looked at are not read twice, so a head that comes
// byte by byte costs about as much as one that comes whole.
func (r *Request) Parse(buf []byte, l *Limits) (n int, err error) { return 0, errTodo }

// Reset forgets everything but the capacity of Fields.
func (r *Request) Reset() {
	*r = Request{Fields: r.Fields[:0]}
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

// Parse reads one response head to a request with this method, in the manner
// of Request.Parse. Interim responses (1xx) are heads of their own: they have
// no body, and Parse must be called again for what follows, except after 101.
func (r *Response) Parse(buf []byte, method string, l *Limits) (n int, err error) {
	return 0, errTodo
}

// Reset forgets everything but the capacity of Fields.
func (r *Response) Reset() {
	*r = Response{Fields: r.Fields[:0], Length: -1}
}

// Interim reports whether another head follows: any 1xx but 101.
func (r *Response) Interim() bool { return r.Status < 200 && r.Status != 101 }

// Body finds the end of a body. Reset it before each one.
type Body struct {
	framing Framing
	left    int64
	done    bool
}

// Reset begins a body. length counts only for framing Length.
func (b *Body) Reset(f Framing, length int64, l *Limits) {}

// Next takes bytes from the front of p: n of them, of which data (a slice of
// p, perhaps empty) is content. Call it with what is left until everything is
// taken or Done; at least one byte is taken of a non-empty p unless the body is
// done. Bytes after the body are not touched.
//
//	for len(p) > 0 && !b.Done() {
//		data, n, err := b.Next(p)
//		p = p[n:]
//	}
func (b *Body) Next(p []byte) (data []byte, n int, err error) { return nil, 0, errTodo }

// Done reports whether the body (its trailers included) is whole. A body that
// lasts until close is never done, an empty one is at once.
func (b *Body) Done() bool { return b.done }

// EOF says what the connection's end means now: nil if the body is whole or
// lasts until close, else ErrTruncated.
func (b *Body) EOF() error { return ErrTruncated }

// Left is how many bytes of a Length body are still to come, -1 if unknown.
func (b *Body) Left() int64 { return b.left }

// Trailers are the trailer fields once the body is done. They live until the
// next Reset. Fields that must not be trailers (framing, routing,
// authentication: RFC 9110 section 6.5.1) are left out.
func (b *Body) Trailers() []Field { return nil }

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
}

// AppendRequest appends a request head with host as its Host field.
func AppendRequest(dst []byte, method, target, host string, fields []Field, o Out) []byte { return dst }

// AppendResponse appends a response head. An empty reason takes the usual one.
func AppendResponse(dst []byte, status int, reason string, fields []Field, o Out) []byte { return dst }

// AppendChunk appends p as one chunk; nothing if p is empty.
func AppendChunk(dst, p []byte) []byte { return dst }

// AppendChunkHeader appends the size line of a chunk of n bytes, which the
// caller sends next, followed by ChunkEnd.
func AppendChunkHeader(dst []byte, n int) []byte { return dst }

// ChunkEnd follows the data of each chunk.
const ChunkEnd = "\r\n"

// AppendLastChunk ends a chunked body with its trailers.
func AppendLastChunk(dst []byte, trailers []Field) []byte { return dst }

// Continue is a whole 100 (Continue) response.
const Continue = "HTTP/1.1 100 Continue\r\n\r\n"
