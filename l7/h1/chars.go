package h1

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// What a byte may be part of. Everything not listed is refused there.
const (
	inToken      = 1 << iota // RFC 9110 section 5.6.2: methods and field names
	isUnderscore             // in a token, but see Request.Fields
	inPath                   // a request target up to "?", "%" excepted
	inQuery                  // a request target behind "?"
	inHost                   // an authority without user information
	inText                   // field values, reason phrases, chunk extensions
	isHex
)

// class says for each byte what it may be part of.
//
// Targets take all visible ASCII but "#": RFC 3986 allows less, but browsers
// send quotes, pipes and brackets in queries; bytes above 0x7e and "#" mean
// different things to different origins, so they are refused.
var class = func() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		alnum := '0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'z'
		if alnum || contains("!#$%&'*+-.^_`|~", b) {
			t[c] |= inToken
		}
		if b == '_' {
			t[c] |= isUnderscore
		}
		if b > ' ' && b < 0x7f && b != '#' {
			t[c] |= inQuery
			if b != '?' && b != '%' {
				t[c] |= inPath
			}
		}
		if alnum || contains("-._~!$&'()*+;=:[]%", b) { // no "," "@" "/"
			t[c] |= inHost
		}
		if b >= ' ' && b != 0x7f || b == '\t' {
			t[c] |= inText
		}
		if '0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'f' {
			t[c] |= isHex
		}
	}
	return t
}()

func contains(set string, b byte) bool {
	for i := range len(set) {
		if set[i] == b {
			return true
		}
	}
	return false
}

// all reports whether every byte of s is of the class.
func all(s string, of uint8) bool {
	for i := range len(s) {
		if class[s[i]]&of == 0 {
			return false
		}
	}
	return true
}

// textEnd returns the index of the first byte from i on that is not text: a
// control other than HTAB, or len(b). Eight bytes at a time: a byte below 0x20
// borrows, 0x7f carries; neighbours may do so falsely, so the table decides.
func textEnd(b []byte, i int) int {
	const each = 0x0101010101010101
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		suspects := ((x - 0x20*each) | (x + each)) &^ x & (0x80 * each)
		if suspects == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(suspects) / 8
		if class[b[i]]&inText == 0 {
			return i
		}
		i++
	}
	for i < len(b) && class[b[i]]&inText != 0 {
		i++
	}
	return i
}

// fold reports whether a token equals a lower-case one of the same alphabet
// (letters and hyphens), whatever the case of its letters. No other token
// character becomes a letter or a hyphen by |0x20.
func fold(token, lower string) bool {
	if len(token) != len(lower) {
		return false
	}
	for i := range len(lower) {
		if token[i]|0x20 != lower[i] {
			return false
		}
	}
	return true
}

func hasPrefixFold(s, lower string) bool {
	return len(s) >= len(lower) && fold(s[:len(lower)], lower)
}

// view is b as a string without a copy: it changes when b does.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func isBlank(b byte) bool { return b == ' ' || b == '\t' }

// trim removes blanks around s.
func trim(s string) string {
	for len(s) > 0 && isBlank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// nextElement cuts the first element off a comma-separated list.
func nextElement(list string) (element, rest string, more bool) {
	for i := range len(list) {
		if list[i] == ',' {
			return trim(list[:i]), list[i+1:], true
		}
	}
	return trim(list), "", false
}
