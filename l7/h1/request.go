package h1

import "strings"

// maxMethod bounds a method; the longest registered one has 17 bytes.
const maxMethod = 64

// maxNominations bounds what Connection may nominate.
const maxNominations = 32

// Parse reads one request head from the beginning of buf and returns its
// length. With n == 0 and err == nil the head is not whole: call Parse again
// with the same bytes and more behind them. A call after n > 0, after an error
// or after Reset begins a new head. Errors are of type *Error; what was read
// until then is kept for the log line.
//
// A head that comes byte by byte costs about as much as one that comes whole.
func (r *Request) Parse(buf []byte, l *Limits) (n int, err error) {
	s := &r.state.section
	if s.over {
		r.Reset()
	}
	if s.base != nil {
		r.rebase(buf)
	}
	limit := l.head()
	if len(buf) > limit {
		buf = buf[:limit]
	}
	n, e := r.parse(buf, l)
	switch {
	case n > 0:
		s.over = true
		return n, nil
	case e == nil && len(buf) == limit:
		e = errHeadTooLarge
	case e == nil && len(buf) > 0:
		s.base, s.held = &buf[0], len(buf)
		return 0, nil
	}
	if e == nil {
		return 0, nil
	}
	s.over = true
	return 0, e
}

// Reset forgets everything but the capacity of Fields.
func (r *Request) Reset() {
	*r = Request{Fields: r.Fields[:0], state: r.state.reset()}
}

// rebase follows the buffer to where it is now.
func (r *Request) rebase(buf []byte) {
	to := r.state.moved(buf)
	if to == nil {
		return
	}
	r.Method, r.Target, r.Path, r.RawQuery = to(r.Method), to(r.Target), to(r.Path), to(r.RawQuery)
	r.Host, r.state.upgradeTo, r.state.authority = to(r.Host), to(r.state.upgradeTo), to(r.state.authority)
	rebaseAll(r.Fields, r.state.nominated, to)
}

func rebaseAll(fields []Field, names []string, to func(string) string) {
	for i := range fields {
		fields[i] = Field{to(fields[i].Name), to(fields[i].Value)}
	}
	for i := range names {
		names[i] = to(names[i])
	}
}

// parse: request line, field lines, then what they mean together.
func (r *Request) parse(buf []byte, l *Limits) (n int, err *Error) {
	s := &r.state
	if !s.start {
		if ev, err := r.requestLine(buf, l); ev != fieldLine {
			return 0, err
		}
		s.start = true
	}
	var f Field
	for {
		ev, underscore, err := s.next(buf, &f, false)
		switch ev {
		case needMore:
			return 0, nil
		case refused:
			return 0, err
		case endOfSection:
			if err := r.finish(); err != nil {
				return 0, err
			}
			return s.line, nil
		}
		if s.lines > l.fields() {
			return 0, errManyFields
		}
		if underscore {
			r.Dropped++
			continue
		}
		keep, err := r.field(&f)
		if err != nil {
			return 0, err
		}
		if keep {
			r.Fields = append(r.Fields, f)
		}
	}
}

// requestLine reads "method SP request-target SP HTTP-version CRLF", after at
// most one empty line (section 2.2).
func (r *Request) requestLine(buf []byte, l *Limits) (event, *Error) {
	s := &r.state
	if s.line == 0 && len(buf) > 0 && buf[0] == '\r' {
		if len(buf) == 1 {
			return needMore, nil
		}
		if buf[1] != '\n' {
			return refused, errBareCR
		}
		s.line = 2
	}
	if !s.searchable(buf) && !r.tooLong(buf, l) {
		return needMore, nil
	}
	i := s.line
	for i < len(buf) && class[buf[i]]&inToken != 0 {
		i++
	}
	if i-s.line > maxMethod {
		return refused, errMethod
	}
	if i == s.line || i >= len(buf) || buf[i] != ' ' {
		if i < len(buf) && buf[i] == '\r' && s.line == 2 && i == 2 {
			return r.badLine(buf, l, errEmptyLines)
		}
		return r.badLine(buf, l, errMethod)
	}
	r.Method = view(buf[s.line:i])
	target := i + 1
	end, query, escapes := scanTarget(buf, target)
	if end-target > l.uri() {
		return refused, errURITooLong
	}
	if end == target || end >= len(buf) || buf[end] != ' ' {
		return r.badLine(buf, l, targetRule(buf, target, end))
	}
	r.Target = view(buf[target:end])
	const version = "HTTP/1.1\r\n"
	rest := buf[end+1:]
	if len(rest) < len(version) || view(rest[:len(version)]) != version {
		if ev, err := r.otherVersion(buf, l, rest); ev != fieldLine {
			return ev, err
		}
	} else {
		r.Minor = 1
	}
	s.line = end + 1 + len(version)
	if err := r.splitTarget(query, escapes); err != nil {
		return refused, err
	}
	return fieldLine, nil
}

// scanTarget finds the end of the target that begins at i, its first "?" (as
// an offset in the target, or -1), and whether the path has escapes.
func scanTarget(buf []byte, i int) (end, query int, escapes bool) {
	start := i
	for i < len(buf) {
		if class[buf[i]]&inPath == 0 {
			if buf[i] != '%' {
				break
			}
			escapes = true
		}
		i++
	}
	if i >= len(buf) || buf[i] != '?' {
		return i, -1, escapes
	}
	query = i - start
	for i < len(buf) && class[buf[i]]&inQuery != 0 {
		i++
	}
	return i, query, escapes
}

// targetRule names what is wrong with a target that no space ends.
func targetRule(buf []byte, target, end int) *Error {
	switch {
	case end < len(buf) && end == target:
		return errNoTarget
	case end < len(buf) && buf[end] == '\r':
		return errNoVersion
	}
	return errTargetByte
}

// badLine judges a request line that broke a rule or is not whole.
func (r *Request) badLine(buf []byte, l *Limits, rule *Error) (event, *Error) {
	s := &r.state
	whole := textEnd(buf, s.line)
	if longMethod(buf[s.line:whole]) {
		return refused, errMethod
	}
	if r.tooLong(buf[:whole], l) {
		return refused, errURITooLong
	}
	return s.judge(buf, rule)
}

// tooLong reports whether method or target is over its limit already, so that
// no client can make us wait for the end of an endless one.
func (r *Request) tooLong(buf []byte, l *Limits) bool {
	line := buf[r.state.line:]
	if longMethod(line) {
		return true
	}
	if len(line) <= l.uri() {
		return false
	}
	space := indexByte(line[:min(len(line), maxMethod+1)], ' ')
	target := line[space+1:]
	return space >= 0 && len(target) > l.uri() && indexByte(target[:l.uri()+1], ' ') < 0
}

func longMethod(line []byte) bool {
	return len(line) > maxMethod && indexByte(line[:maxMethod+1], ' ') < 0
}

// otherVersion: the line does not end in HTTP/1.1.
func (r *Request) otherVersion(buf []byte, l *Limits, rest []byte) (event, *Error) {
	if len(rest) < 10 || rest[8] != '\r' || rest[9] != '\n' {
		return r.badLine(buf, l, r.versionRule())
	}
	minor, err := parseVersion(view(rest[:8]))
	switch {
	case err == errVersionForm:
		err = r.versionRule()
	case err == errVersion && r.Method == "PRI": // HTTP/2's preface, but for its end
		err = errNotHTTP
	}
	if err != nil {
		return r.badLine(buf, l, err)
	}
	r.Minor = minor
	return fieldLine, nil
}

// versionRule names what is wrong with a line that does not end in a version.
// One without a target, either, is of somebody who speaks no HTTP/1: of HTTP/2
// with another preface, say, who would take our answer for frames.
func (r *Request) versionRule() *Error {
	t := r.Target
	switch {
	case t[0] == '/' || t == "*" || strings.Contains(t, "://"):
		return errVersionForm
	case r.Method == "PROXY":
		return errProxyHeader
	}
	return errNotHTTP
}

// parseVersion reads "HTTP/1.x". A minor version above 1 is spoken to as 1.1
// (RFC 9110 section 2.5).
func parseVersion(v string) (minor int, err *Error) {
	if len(v) != 8 || v[:5] != "HTTP/" || v[6] != '.' || !isDigit(v[5]) || !isDigit(v[7]) {
		return 0, errVersionForm
	}
	if v[5] != '1' {
		return 0, errVersion
	}
	return min(int(v[7]-'0'), 1), nil
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// splitTarget checks the target's form (section 3.2) and splits it.
func (r *Request) splitTarget(query int, escapes bool) *Error {
	if r.Method == "CONNECT" || r.Method == "TRACE" {
		return errMethodHere
	}
	if r.Target[0] != '/' {
		if r.Target == "*" && r.Method == "OPTIONS" {
			r.Path = r.Target
			return nil
		}
		var err *Error
		if query, err = r.absoluteForm(query); err != nil {
			return err
		}
	}
	r.Path = r.Target
	if query >= 0 {
		r.Path, r.RawQuery = r.Target[:query], r.Target[query+1:]
	}
	if escapes && !validEscapes(r.Path) {
		return errEscape
	}
	return nil
}

// absoluteForm takes scheme and authority off the target (section 3.2.2) and
// returns where the query is then.
func (r *Request) absoluteForm(query int) (int, *Error) {
	t := r.Target
	switch {
	case hasPrefixFold(t, "http") && len(t) > 7 && t[4:7] == "://":
		r.Scheme, t = "http", t[7:]
	case hasPrefixFold(t, "https") && len(t) > 8 && t[5:8] == "://":
		r.Scheme, t = "https", t[8:]
	default:
		return 0, errTarget
	}
	end := 0
	for end < len(t) && t[end] != '/' && t[end] != '?' {
		end++
	}
	authority, rest := t[:end], t[end:]
	if authority == "" || !all(authority, inHost) {
		return 0, errTarget
	}
	r.state.authority = authority
	if query >= 0 {
		query -= len(r.Target) - len(rest)
	}
	switch {
	case rest == "":
		rest = "/" // an empty path is "/" on the next request line
	case rest[0] == '?':
		rest, query = "/"+rest, query+1 // allocates; no client does it
	}
	r.Target = rest
	return query, nil
}

func validEscapes(path string) bool {
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		if i+2 >= len(path) || class[path[i+1]]&isHex == 0 || class[path[i+2]]&isHex == 0 {
			return false
		}
		i += 2
	}
	return true
}

// field looks at one field and tells whether it belongs in Fields.
func (r *Request) field(f *Field) (keep bool, err *Error) {
	switch len(f.Name) {
	case 4:
		if fold(f.Name, "host") {
			return false, r.host(f.Value)
		}
	case 6:
		if fold(f.Name, "expect") {
			if !fold(f.Value, "100-continue") {
				return false, errExpect
			}
			r.Expect100 = true
		}
	case 14:
		if fold(f.Name, "content-length") {
			if r.state.hasLength {
				return false, errTwoLengths
			}
			return false, r.state.length(f.Value)
		}
	case 19:
		if fold(f.Name, "proxy-authorization") {
			return false, nil
		}
	}
	return r.state.field(f)
}

func (r *Request) host(value string) *Error {
	if r.state.hasHost {
		return errTwoHosts
	}
	if value == "" || !all(value, inHost) {
		return errHost
	}
	r.state.hasHost = true
	r.Host = value
	return nil
}

// finish decides what the fields mean together.
func (r *Request) finish() *Error {
	s := &r.state
	if err := r.finishHost(); err != nil {
		return err
	}
	if err := r.finishFraming(); err != nil {
		return err
	}
	r.Close = s.close || r.Minor == 0 && !s.keepAlive
	if r.Minor == 0 || r.Framing == None || r.Framing == Length && r.Length == 0 {
		r.Expect100 = false // RFC 9110 section 10.1.1
	}
	if s.upgrade && r.Minor == 1 && !listHas(s.upgradeTo, "h2c") {
		r.Upgrade = s.upgradeTo // RFC 9110 section 7.8; h2c: RFC 9113 section 3.1
	}
	r.Fields = s.denominate(r.Fields)
	return nil
}

// finishHost: an authority in the target must be the one of Host. (Section
// 3.2.2 lets it replace Host; two names for one request are how filters in
// front of us are fooled, and no client sends them.)
func (r *Request) finishHost() *Error {
	s := &r.state
	if !s.hasHost && r.Minor == 1 {
		return errNoHost
	}
	if s.authority == "" {
		return nil
	}
	if s.hasHost && !sameHost(r.Host, s.authority) {
		return errHostDiffers
	}
	r.Host = s.authority
	return nil
}

func (r *Request) finishFraming() *Error {
	s := &r.state
	if s.codings == 0 {
		if s.hasLength {
			r.Framing, r.Length = Length, s.contentLength
		}
		return nil
	}
	switch {
	case s.hasLength:
		return errLengthAndTE
	case r.Minor == 0:
		return errOldTE
	}
	r.Framing, r.Length = Chunked, -1
	return s.codingError()
}
