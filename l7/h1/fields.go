package h1

import "bytes"

func indexByte(b []byte, c byte) int { return bytes.IndexByte(b, c) }

// headState is what a head's fields have said so far.
type headState struct {
	section

	hasHost, hasLength bool
	close, keepAlive   bool // Connection said so
	upgrade            bool // Connection nominates Upgrade
	chunkedInside      bool // chunked is not the last coding
	chunkedLast        bool
	codings            int
	contentLength      int64
	authority          string   // of a target in absolute form
	upgradeTo          string   // the Upgrade field
	nominated          []string // by Connection, other than the well-known ones
}

func (s *headState) reset() headState { return headState{nominated: s.nominated[:0]} }

// field looks at a field that requests and responses share and tells whether
// it goes end to end (RFC 9110 section 7.6.1).
func (s *headState) field(f *Field) (keep bool, err *Error) {
	switch len(f.Name) {
	case 2:
		return !fold(f.Name, "te"), nil
	case 7:
		if fold(f.Name, "upgrade") {
			s.upgradeTo = f.Value
			return false, nil
		}
	case 10:
		if fold(f.Name, "connection") {
			return false, s.connection(f.Value)
		}
		return !fold(f.Name, "keep-alive"), nil
	case 14:
		return !fold(f.Name, "http2-settings"), nil
	case 16:
		return !fold(f.Name, "proxy-connection"), nil
	case 17:
		if fold(f.Name, "transfer-encoding") {
			s.transferEncoding(f.Value)
			return false, nil
		}
	}
	return true, nil
}

// connection reads a Connection field (section 9.6, RFC 9110 section 7.6.1).
func (s *headState) connection(list string) *Error {
	for more := true; more; {
		var option string
		option, list, more = nextElement(list)
		switch {
		case fold(option, "close"):
			s.close = true
		case fold(option, "keep-alive"):
			s.keepAlive = true
		case fold(option, "upgrade"):
			s.upgrade = true
		case option == "", fold(option, "te"), protected(option):
		case len(s.nominated) == maxNominations:
			return errNominations
		default:
			s.nominated = append(s.nominated, option)
		}
	}
	return nil
}

// protected reports whether others depend on a field so much that a client
// which nominates it for removal must be attacking: routing, identity, caching
// and what describes the content.
func protected(name string) bool {
	for _, p := range [...]string{"x-forwarded-", "content-", "x-real-ip", "forwarded", "host", "via",
		"cookie", "set-cookie", "authorization", "cache-control", "date", "location", "expect", "trailer"} {
		if hasPrefixFold(name, p) && (len(name) == len(p) || p[len(p)-1] == '-') {
			return true
		}
	}
	return false
}

// denominate removes from fields, in place, what Connection nominated.
func (s *headState) denominate(fields []Field) []Field {
	if len(s.nominated) == 0 {
		return fields
	}
	kept := fields[:0]
	for _, f := range fields {
		if !s.nominates(f.Name) {
			kept = append(kept, f)
		}
	}
	return kept
}

func (s *headState) nominates(name string) bool {
	for _, n := range s.nominated {
		if foldBoth(n, name) {
			return true
		}
	}
	return false
}

// foldBoth reports whether two strings are equal but for the case of letters.
func foldBoth(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b | 0x20
	}
	return b
}

func listHas(list, lower string) bool {
	for more := true; more; {
		var element string
		if element, list, more = nextElement(list); fold(element, lower) {
			return true
		}
	}
	return false
}

// sameHost compares authorities by fold.
func sameHost(a, b string) bool { return foldBoth(a, b) }

// length reads a Content-Length: digits only, one number (section 6.3).
func (s *headState) length(v string) *Error {
	n, ok := parseLength(v)
	if !ok {
		return errLength
	}
	s.hasLength, s.contentLength = true, n
	return nil
}

func parseLength(v string) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 18 { // 18 digits cannot overflow, and are plenty
		return 0, false
	}
	for i := range len(v) {
		if !isDigit(v[i]) {
			return 0, false
		}
		n = n*10 + int64(v[i]-'0')
	}
	return n, true
}

// transferEncoding notes the codings; what they mean is said at the end.
func (s *headState) transferEncoding(list string) {
	for more := true; more; {
		var coding string
		coding, list, more = nextElement(list)
		s.chunkedInside = s.chunkedInside || s.chunkedLast
		s.chunkedLast = fold(coding, "chunked")
		s.codings++
	}
}

// codingError: the only coding is chunked, once, at the end.
func (s *headState) codingError() *Error {
	switch {
	case s.chunkedInside || !s.chunkedLast:
		return errNotChunked
	case s.codings > 1:
		return errCoding
	}
	return nil
}
