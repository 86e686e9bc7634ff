package h1

import "unsafe"

// Defaults of Limits.
const (
	defaultHead   = 64 << 10
	defaultURI    = 16 << 10
	defaultFields = 100
)

func (l *Limits) head() int   { return orDefault(l.Head, defaultHead) }
func (l *Limits) uri() int    { return orDefault(l.URI, defaultURI) }
func (l *Limits) fields() int { return orDefault(l.Fields, defaultFields) }

func orDefault(n, d int) int {
	if n <= 0 {
		return d
	}
	return n
}

// section is how far the parser has come in a head or a trailer section.
//
// Invariant: a line is judged when it is whole, or at its first control
// character; never earlier and never later. So what is accepted cannot depend
// on how the bytes are cut, and no byte is looked at more than a fixed number
// of times.
type section struct {
	line  int   // where the current line begins
	seen  int   // up to where it is searched for its end
	lines int   // field lines so far
	base  *byte // of the buffer that the strings made so far point into
	held  int   // its length
	start bool  // the first line is done
	over  bool  // the section is whole or refused: the next call begins anew
}

// event is what a step of the parser found.
type event uint8

const (
	needMore event = iota
	fieldLine
	endOfSection
	refused
)

// searchable reports whether the current line, of which a part was seen
// before, now has its end or a control character.
func (s *section) searchable(buf []byte) bool {
	if s.seen <= s.line {
		return true
	}
	i := textEnd(buf, s.seen)
	s.seen = i
	return i < len(buf) && !(buf[i] == '\r' && i+1 == len(buf))
}

// wait notes how far the line is searched.
func (s *section) wait(i int) event {
	s.seen = i
	return needMore
}

// judge decides about a line that broke a rule, or that ends at the end of
// buf: if it is not whole, more bytes must come first; a control character in
// it counts before the rule.
func (s *section) judge(buf []byte, rule *Error) (event, *Error) {
	i := textEnd(buf, s.line)
	switch {
	case i == len(buf):
		return s.wait(i), nil
	case buf[i] == '\n':
		return refused, errBareLF
	case buf[i] != '\r':
		return refused, errControl
	case i+1 == len(buf):
		return s.wait(i), nil
	case buf[i+1] != '\n':
		return refused, errBareCR
	}
	return refused, rule
}

// next reads one field line. lenient: blanks before the colon are removed, as
// section 5.1 demands of a proxy for responses. underscore: the name has one.
func (s *section) next(buf []byte, f *Field, lenient bool) (ev event, underscore bool, err *Error) {
	if !s.searchable(buf) {
		return needMore, false, nil
	}
	i := s.line
	var seen uint8
	for i < len(buf) {
		c := class[buf[i]]
		if c&inToken == 0 {
			break
		}
		seen |= c
		i++
	}
	nameEnd := i
	if lenient && i > s.line {
		for i < len(buf) && isBlank(buf[i]) {
			i++
		}
	}
	if i == s.line || i >= len(buf) || buf[i] != ':' {
		ev, err = s.noField(buf, i)
		return ev, false, err
	}
	i++
	for i < len(buf) && isBlank(buf[i]) {
		i++
	}
	value := i
	i = textEnd(buf, i)
	if i+1 >= len(buf) || buf[i] != '\r' || buf[i+1] != '\n' {
		ev, err = s.judge(buf, nil)
		return ev, false, err
	}
	end := i
	for end > value && isBlank(buf[end-1]) {
		end--
	}
	f.Name, f.Value = view(buf[s.line:nameEnd]), view(buf[value:end])
	s.line = i + 2
	s.lines++
	return fieldLine, seen&isUnderscore != 0, nil
}

// noField: the token that began at s.line and ended at i is no field name.
func (s *section) noField(buf []byte, i int) (event, *Error) {
	rule := errNoColon
	if i > s.line {
		if i < len(buf) && isBlank(buf[i]) {
			rule = errNameSpace
		}
		return s.judge(buf, rule)
	}
	if i >= len(buf) {
		return s.wait(i), nil
	}
	switch {
	case buf[i] == '\r':
		if i+1 == len(buf) {
			return s.wait(i), nil
		}
		if buf[i+1] == '\n' {
			s.line = i + 2
			return endOfSection, nil
		}
	case buf[i] == ':':
		rule = errNameEmpty
	case isBlank(buf[i]):
		rule = errFold
	}
	return s.judge(buf, rule)
}

// moved tells how to re-base strings when the buffer is not where it was: nil
// if nothing moved.
func (s *section) moved(buf []byte) func(string) string {
	old, now, held := s.base, unsafe.SliceData(buf), uintptr(s.held)
	s.base, s.held = now, len(buf)
	if old == nil || old == now {
		return nil
	}
	return func(v string) string {
		if len(v) == 0 {
			return ""
		}
		offset := uintptr(unsafe.Pointer(unsafe.StringData(v))) - uintptr(unsafe.Pointer(old))
		if offset >= held {
			return v // made by us, not of the buffer
		}
		return view(buf[offset : offset+uintptr(len(v))])
	}
}
