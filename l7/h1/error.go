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
)

// Status is the answer to a request with such an error.
func (k Kind) Status() int {
	return [...]int{400, 400, 431, 414, 405, 505, 501, 417, 400}[min(k, Truncated)]
}

// Error is what Parse and Next return. Its values are made once: no error
// allocates, and they may be compared.
type Error struct {
	Kind   Kind
	Detail string
}

func (e *Error) Error() string { return e.Detail }

// ErrTruncated: the connection ended before the body did.
var ErrTruncated = &Error{Truncated, "connection ended inside a body"}

var errTodo = &Error{NotImplemented, "not written yet"}
