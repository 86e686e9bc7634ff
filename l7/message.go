package l7

import (
	"net/netip"
	"strings"

	"github.com/cirque-lb/lb/l7/h1"
)

// Field is one header field: struct{ Name, Value string }.
type Field = h1.Field

// Header holds fields in the order of the wire. Names compare without case.
type Header []Field

// Get returns the first value of name, or "".
func (h Header) Get(name string) string {
	v, _ := h.Lookup(name)
	return v
}

// Lookup returns the first value of name and whether there is one.
func (h Header) Lookup(name string) (string, bool) {
	for i := range h {
		if len(h[i].Name) == len(name) && equalFold(h[i].Name, name) {
			return h[i].Value, true
		}
	}
	return "", false
}

// Clone returns a copy that lives on, strings and all.
func (h Header) Clone() Header {
	out := make(Header, len(h))
	for i, f := range h {
		out[i] = Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	}
	return out
}

// Has reports whether a field of this name is there.
func (h Header) Has(name string) bool {
	_, ok := h.Lookup(name)
	return ok
}

// Add appends a field.
func (h *Header) Add(name, value string) { *h = append(*h, Field{Name: name, Value: value}) }

// Set makes value the only one of name, in the place of the first.
func (h *Header) Set(name, value string) {
	for i := range *h {
		if len((*h)[i].Name) == len(name) && equalFold((*h)[i].Name, name) {
			(*h)[i].Value = value
			*h = append((*h)[:i+1], (*h)[i+1:].without(name)...)
			return
		}
	}
	h.Add(name, value)
}

// Del removes every field of this name.
func (h *Header) Del(name string) { *h = h.without(name) }

// without compacts h in place.
func (h Header) without(name string) Header {
	kept := h[:0]
	for _, f := range h {
		if !equalFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	return kept
}

// equalFold reports whether two names are equal but for the case of ASCII
// letters. It begins at the end: names as long as each other seldom end alike.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := len(a) - 1; i >= 0; i-- {
		if c, d := a[i], b[i]; c != d && (c^d != 0x20 || c|0x20 < 'a' || 'z' < c|0x20) {
			return false
		}
	}
	return true
}

// Version is the HTTP version a message came in.
type Version uint8

// The versions.
const (
	HTTP10 Version = 10
	HTTP11 Version = 11
	HTTP20 Version = 20
)

func (v Version) String() string {
	switch v {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP20:
		return "HTTP/2.0"
	}
	return "HTTP/?"
}

// Request is a request's head. It, its Header and their strings are borrowed: once
// the Log phases are through, their memory is another request's. Clone what is to
// be kept longer (Header.Clone, strings.Clone).
type Request struct {
	Method  string
	Scheme  string // "http" or "https": how the client reached us
	Host    string // host and port as the client named them; not among the fields
	Target  string // path and query, byte for byte; "*" of OPTIONS
	Version Version
	Header  Header // end-to-end fields only: no Host, no Connection, no Content-Length
	// Length is the body's length, or -1 when only its end tells.
	Length int64
	// Upgrade is the protocol the client asks to change to ("websocket"), or "".
	Upgrade string

	Client   netip.AddrPort // who connected; after a PROXY header, whom it names
	Local    netip.AddrPort // the address that was connected to
	Listener string         // name of the listener

	// ServerName and Certificate (its subject, verified) are the client's TLS;
	// "" without.
	ServerName  string
	Certificate string

	parsed []byte // the head that the strings point into, when HTTP/1's codec read it
}

// Path returns the target without its query.
func (r *Request) Path() string {
	path, _, _ := strings.Cut(r.Target, "?")
	return path
}

// Query returns what follows the first question mark.
func (r *Request) Query() string {
	_, query, _ := strings.Cut(r.Target, "?")
	return query
}

// Response is a response's head, and its body when a filter or the proxy made it.
// A backend's is borrowed as a Request is.
type Response struct {
	Status  int
	Version Version // of a backend's response
	Header  Header  // end-to-end fields only, as in a Request
	// Length is the body's length, or -1 when only its end tells.
	Length int64
	// Body is the whole body of a response that was made here.
	Body []byte
	// Trailer is the trailer of a response that was made here.
	Trailer Header
	// Upgrade is the protocol that a 101 changes to.
	Upgrade string

	parsed []byte // as in a Request
}
