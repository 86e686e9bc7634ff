package h2

import (
	"strings"

	"golang.org/x/net/http2/hpack"
)

// block is a header section on its way in: HEADERS and its CONTINUATIONs.
type block struct {
	id     uint32 // not 0 while CONTINUATION must follow
	stream *Stream
	kind   blockKind
	end    bool
	frames int
	bytes  int

	head    Head
	seen    pseudo
	size    int // as SETTINGS_MAX_HEADER_LIST_SIZE counts
	count   int
	cookies int // index of the cookie field + 1
	crumbs  []string
	bomb    bool   // many times over the limit
	bad     string // why it is malformed; the first reason
}

type blockKind uint8

const (
	blockHead     blockKind = iota
	blockTrailers           // of stream
	blockDiscard            // of a stream we reset: only the table matters
	blockRefuse             // of a stream over the limit
)

// maxBlock and maxBlockFrames bound what is decoded for one section, whose
// decoded size is bounded by Config.HeaderList.
const (
	maxBlock       = 128 << 10
	maxBlockFrames = 16
	// bombSize is how many times Config.HeaderList nobody's fields are by mistake.
	bombSize = 4
)

type pseudo uint8

const (
	pseudoMethod pseudo = 1 << iota
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoProtocol
	pseudoStatus
)

func (b *block) reset() {
	fields, crumbs := b.head.Fields, b.crumbs
	clear(fields)
	clear(crumbs)
	if cap(crumbs) > 128 {
		crumbs = nil
	}
	*b = block{head: Head{Fields: fields[:0], Length: -1}, crumbs: crumbs[:0]}
}

// malformed keeps the first reason.
func (b *block) malformed(why string) {
	if b.bad == "" {
		b.bad = why
	}
}

// emit takes a decoded field. Sizes are counted while decoding: a small block
// may name a large field of the table thousands of times.
func (c *Conn) emit(f hpack.HeaderField) {
	b := &c.block
	b.size += len(f.Name) + len(f.Value) + 32
	if f.Name != "cookie" || b.cookies == 0 {
		b.count++
	}
	if b.size > int(c.config.HeaderList) || b.count > c.config.Fields+4 {
		b.head.TooLarge = true
		if b.size > bombSize*int(c.config.HeaderList) {
			b.bomb = true
			c.dec.SetEmitEnabled(false)
		}
		return
	}
	if b.kind == blockDiscard || b.bad != "" {
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		b.pseudoField(f.Name, f.Value, c.config.Client)
		return
	}
	b.field(f.Name, f.Value, c.config.Client)
}

// cost is how many resets decoding the section was worth.
func (b *block) cost() int {
	switch {
	case b.bomb:
		return 10
	case b.head.TooLarge:
		return 1
	}
	return 0
}

func (b *block) pseudoField(name, value string, response bool) {
	var which pseudo
	var into *string
	switch name {
	case ":method":
		which, into = pseudoMethod, &b.head.Method
	case ":scheme":
		which, into = pseudoScheme, &b.head.Scheme
	case ":authority":
		which, into = pseudoAuthority, &b.head.Authority
	case ":path":
		which, into = pseudoPath, &b.head.Path
	case ":protocol":
		which, into = pseudoProtocol, &b.head.Protocol
	case ":status":
		which = pseudoStatus
	}
	switch {
	case which == 0 || response != (which == pseudoStatus):
		b.malformed("unknown pseudo-field")
	case b.kind == blockTrailers:
		b.malformed("pseudo-field in trailers")
	case b.seen&which != 0:
		b.malformed("pseudo-field twice")
	case len(b.head.Fields) > 0:
		b.malformed("pseudo-field after a regular field")
	case !validValue(value):
		b.malformed("control character or outer space in a pseudo-field")
	case which == pseudoStatus:
		b.status(value)
	default:
		*into = value
	}
	b.seen |= which
}

func (b *block) status(v string) {
	n, ok := parseLength(v)
	if !ok || len(v) != 3 || n < 100 {
		b.malformed("status is not three digits")
		return
	}
	if n == 101 {
		b.malformed("status 101")
	}
	b.head.Status = int(n)
}

func (b *block) field(name, value string, response bool) {
	switch {
	case !validName(name):
		b.malformed("invalid field name")
		return
	case !validValue(value):
		b.malformed("control character or outer space in a field value")
		return
	}
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		b.malformed("connection-specific field")
		return
	case "te":
		if !response && value != "trailers" {
			b.malformed("te other than trailers")
			return
		}
	case "content-length":
		n, ok := parseLength(value)
		if !ok || b.head.Length >= 0 || b.kind == blockTrailers {
			b.malformed("invalid content-length")
			return
		}
		b.head.Length = n
	case "cookie":
		if !response && b.crumb(value) {
			return
		}
	}
	b.head.Fields = append(b.head.Fields, Field{name, value})
}

// crumb keeps a cookie crumb (section 8.2.3) and reports whether the cookie's
// field is there already. They are joined at the end: one by one a small block
// of indexed crumbs would cost the square of its size.
func (b *block) crumb(v string) bool {
	if v == "" {
		return true
	}
	b.crumbs = append(b.crumbs, v)
	if b.cookies > 0 {
		return true
	}
	b.cookies = len(b.head.Fields) + 1
	return false
}

// complete checks what only the whole section tells (section 8.3).
func (b *block) complete(c *Conn) {
	h := &b.head
	if len(b.crumbs) > 1 && b.bad == "" {
		h.Fields[b.cookies-1].Value = strings.Join(b.crumbs, "; ")
	}
	switch {
	case h.TooLarge || b.kind == blockTrailers:
	case c.config.Client:
		if b.seen&pseudoStatus == 0 {
			b.malformed("no :status")
		} else if h.Status < 200 && b.end {
			b.malformed("END_STREAM on an informational response")
		}
	case b.seen&pseudoMethod == 0 || !validToken(h.Method):
		b.malformed("no valid :method")
	case h.Method == "CONNECT" && b.seen&pseudoProtocol == 0:
		if b.seen&(pseudoScheme|pseudoPath) != 0 || h.Authority == "" {
			b.malformed("CONNECT takes :authority only")
		}
	case b.seen&pseudoProtocol != 0 && (!c.config.Connect || h.Method != "CONNECT" || h.Authority == ""):
		b.malformed("unexpected :protocol")
	case h.Scheme == "" || h.Path == "":
		b.malformed("no :scheme or no :path")
	case h.Path[0] != '/' && h.Path != "*":
		b.malformed(":path is not absolute")
	}
	if b.end && h.Length > 0 && !c.config.Client && !h.TooLarge && b.kind == blockHead {
		b.malformed("content-length without content")
	}
}

const (
	isToken = 1 << iota // RFC 9110 tchar
	isUpper
	isValue // VCHAR, SP, HTAB, obs-text
)

var classes = func() (t [256]byte) {
	for i := range t {
		c := byte(i)
		switch {
		case c >= 'A' && c <= 'Z':
			t[i] = isToken | isUpper
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
			t[i] = isToken
		}
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[i] |= isValue
		}
	}
	return t
}()

func validName(s string) bool {
	for i := 0; i < len(s); i++ {
		if classes[s[i]]&(isToken|isUpper) != isToken {
			return false
		}
	}
	return s != ""
}

func validToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if classes[s[i]]&isToken == 0 {
			return false
		}
	}
	return s != ""
}

// validValue is stricter than section 8.2.1, which forbids NUL, CR, LF and
// space at the ends, by the other control characters (RFC 9110, section 5.5).
// Eight bytes at a time: a byte below 0x20 borrows, 0x7f carries; neighbours may
// do so falsely, and a tab is right, so the table decides.
func validValue(s string) bool {
	const each = 0x0101010101010101
	rest := s
	for len(rest) >= 8 {
		x := uint64(rest[0]) | uint64(rest[1])<<8 | uint64(rest[2])<<16 | uint64(rest[3])<<24 |
			uint64(rest[4])<<32 | uint64(rest[5])<<40 | uint64(rest[6])<<48 | uint64(rest[7])<<56
		if ((x-0x20*each)|(x+each))&^x&(0x80*each) != 0 && !allValue(rest[:8]) {
			return false
		}
		rest = rest[8:]
	}
	if !allValue(rest) {
		return false
	}
	if s == "" {
		return true
	}
	first, last := s[0], s[len(s)-1]
	return first != ' ' && first != '\t' && last != ' ' && last != '\t'
}

func allValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if classes[s[i]]&isValue == 0 {
			return false
		}
	}
	return true
}

func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}
