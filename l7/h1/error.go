package h1

// Kind says what is wrong with a message, as far as an answer depends on it.
type Kind uint8

// The kinds, with the status that answers a request.
const (
	BadRequest     Kind = iota // 400: not a message
	BadFraming                 // 400: where the body ends is in doubt
	TooLarge                   // 431: head or trailers over a limit
	URITooLong                 // 414
	MethodRefused              // 405: CONNECT, TRACE
	VersionRefused             // 505
	NotImplemented             // 501: a transfer coding other than chunked
	ExpectRefused              // 417: an expectation other than 100-continue
	Truncated                  // the connection ended inside a message
	NotHTTP                    // nothing: it is no request of HTTP/1 at all
)

// Status is the answer to a request with such an error.
func (k Kind) Status() int {
	return [...]int{400, 400, 431, 414, 405, 505, 501, 417, 400, 400}[min(k, NotHTTP)]
}

// Error is what Parse, Next and EOF return. Its values are made once: no error
// allocates, and they may be compared.
type Error struct {
	Kind   Kind
	Detail string
}

func (e *Error) Error() string { return e.Detail }

// ErrTruncated: the connection ended before the body did.
var ErrTruncated = &Error{Truncated, "connection ended inside a body"}

// Section numbers are RFC 9112's unless said otherwise.
var (
	errMethod       = &Error{BadRequest, "method is not a token (section 3.1)"}
	errNoTarget     = &Error{BadRequest, "no request target, or more than one space before it (section 3)"}
	errTarget       = &Error{BadRequest, "request target is not a path, nor an absolute URI, nor * of OPTIONS (section 3.2)"}
	errTargetByte   = &Error{BadRequest, "byte in request target that a URI cannot hold (RFC 3986 section 2)"}
	errEscape       = &Error{BadRequest, "% in path without two hex digits (RFC 3986 section 2.1)"}
	errNoVersion    = &Error{BadRequest, "no HTTP version in request line (section 3)"}
	errVersionForm  = &Error{BadRequest, "space in request target, or not an HTTP version (section 3)"}
	errNotHTTP      = &Error{NotHTTP, "neither a request target nor a version of HTTP: another protocol (section 3)"}
	errProxyHeader  = &Error{BadRequest, "a PROXY header where none is expected"}
	errVersion      = &Error{VersionRefused, "HTTP version is not 1.0 or 1.1 (RFC 9110 section 2.5)"}
	errURITooLong   = &Error{URITooLong, "request target over the limit (section 3)"}
	errMethodHere   = &Error{MethodRefused, "CONNECT and TRACE are not served (RFC 9110 section 9.3)"}
	errEmptyLines   = &Error{BadRequest, "more than one empty line before request line (section 2.2)"}
	errStatusLine   = &Error{BadRequest, "not a status line (section 4)"}
	errNoColon      = &Error{BadRequest, "field name is not a token followed by a colon (section 5)"}
	errNameSpace    = &Error{BadRequest, "white space between field name and colon (section 5.1)"}
	errNameEmpty    = &Error{BadRequest, "empty field name (section 5)"}
	errFold         = &Error{BadRequest, "line begins with white space (sections 2.2, 5.2)"}
	errBareLF       = &Error{BadRequest, "line ends without CR (section 2.2)"}
	errBareCR       = &Error{BadRequest, "CR without LF (section 2.2)"}
	errControl      = &Error{BadRequest, "control character (RFC 9110 section 5.5)"}
	errHeadTooLarge = &Error{TooLarge, "head over the limit (RFC 6585 section 5)"}
	errManyFields   = &Error{TooLarge, "more fields than the limit (RFC 6585 section 5)"}
	errNominations  = &Error{TooLarge, "Connection nominates too many fields"}
	errNoHost       = &Error{BadRequest, "no Host field (section 3.2)"}
	errTwoHosts     = &Error{BadRequest, "more than one Host field (section 3.2)"}
	errHost         = &Error{BadRequest, "Host is not a host and port (section 3.2)"}
	errHostDiffers  = &Error{BadRequest, "Host differs from the target's authority (section 3.2.2)"}
	errExpect       = &Error{ExpectRefused, "an expectation other than 100-continue (RFC 9110 section 10.1.1)"}
	errLength       = &Error{BadFraming, "Content-Length is not a number (section 6.3)"}
	errTwoLengths   = &Error{BadFraming, "more than one Content-Length (section 6.3)"}
	errLengthAndTE  = &Error{BadFraming, "both Content-Length and Transfer-Encoding (section 6.3)"}
	errOldTE        = &Error{BadFraming, "Transfer-Encoding in HTTP/1.0 (section 6.1)"}
	errNotChunked   = &Error{BadFraming, "Transfer-Encoding does not end in one chunked (section 6.3)"}
	errCoding       = &Error{NotImplemented, "a transfer coding other than chunked (section 6.1)"}
	errInterimBody  = &Error{BadFraming, "interim response with a body (section 6.3)"}

	errChunkSize    = &Error{BadFraming, "chunk size is not a hex number, or too large (section 7.1)"}
	errChunkLine    = &Error{BadFraming, "chunk size line does not end in CRLF (section 7.1)"}
	errChunkExt     = &Error{BadFraming, "control character in a chunk extension (section 7.1.1)"}
	errChunkEnd     = &Error{BadFraming, "chunk data does not end in CRLF (section 7.1)"}
	errChunkWaste   = &Error{BadFraming, "more chunk framing than data (section 7.1.1)"}
	errManyTrailers = &Error{TooLarge, "trailer section over the limit"}
)
