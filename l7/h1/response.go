package h1

// Parse reads one response head to a request with this method, in the manner
// of Request.Parse. Interim responses (1xx) are heads of their own: they have
// no body, and Parse must be called again for what follows, except after 101.
func (r *Response) Parse(buf []byte, method string, l *Limits) (n int, err error) {
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
	n, e := r.parse(buf, method, l)
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
func (r *Response) Reset() {
	*r = Response{Fields: r.Fields[:0], Length: -1, state: r.state.reset()}
}

// Interim reports whether another head follows: any 1xx but 101.
func (r *Response) Interim() bool { return r.Status < 200 && r.Status != 101 }

func (r *Response) rebase(buf []byte) {
	to := r.state.moved(buf)
	if to == nil {
		return
	}
	r.Reason, r.state.upgradeTo = to(r.Reason), to(r.state.upgradeTo)
	rebaseAll(r.Fields, r.state.nominated, to)
}

func (r *Response) parse(buf []byte, method string, l *Limits) (n int, err *Error) {
	s := &r.state
	if !s.start {
		if ev, err := r.statusLine(buf); ev != fieldLine {
			return 0, err
		}
		s.start = true
	}
	var f Field
	for {
		ev, _, err := s.next(buf, &f, true)
		switch ev {
		case needMore:
			return 0, nil
		case refused:
			return 0, err
		case endOfSection:
			if err := r.finish(method); err != nil {
				return 0, err
			}
			return s.line, nil
		}
		if s.lines > l.fields() {
			return 0, errManyFields
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

// statusLine reads "HTTP/1.x SP 3DIGIT SP reason CRLF" (section 4); the space
// before an empty reason may be missing, as many origins have it.
func (r *Response) statusLine(buf []byte) (event, *Error) {
	s := &r.state
	if !s.searchable(buf) {
		return needMore, nil
	}
	const version, least = len("HTTP/1.1"), len("HTTP/1.1 200\r\n")
	if len(buf) < version {
		return s.judge(buf, errStatusLine)
	}
	minor, err := parseVersion(view(buf[:version]))
	switch err {
	case nil:
	case errVersion:
		return s.judge(buf, err)
	default:
		return s.judge(buf, errStatusLine)
	}
	if len(buf) < least {
		return s.judge(buf, errStatusLine)
	}
	status, ok := parseStatus(buf[8:12])
	if !ok || buf[12] != ' ' && buf[12] != '\r' {
		return s.judge(buf, errStatusLine)
	}
	reason := 12
	if buf[12] == ' ' {
		reason++
	}
	end := textEnd(buf, reason)
	if end+1 >= len(buf) || buf[end] != '\r' || buf[end+1] != '\n' {
		return s.judge(buf, errStatusLine)
	}
	r.Minor, r.Status, r.Reason, r.Length = minor, status, view(buf[reason:end]), -1
	s.line = end + 2
	return fieldLine, nil
}

// parseStatus reads a space and three digits, 100 to 999.
func parseStatus(b []byte) (status int, ok bool) {
	if b[0] != ' ' || b[1] < '1' || b[1] > '9' || !isDigit(b[2]) || !isDigit(b[3]) {
		return 0, false
	}
	return int(b[1]-'0')*100 + int(b[2]-'0')*10 + int(b[3]-'0'), true
}

func (r *Response) field(f *Field) (keep bool, err *Error) {
	switch len(f.Name) {
	case 14:
		if fold(f.Name, "content-length") {
			return false, r.lengths(f.Value)
		}
	case 18:
		if fold(f.Name, "proxy-authenticate") {
			return false, nil
		}
	}
	return r.state.field(f)
}

// lengths reads a Content-Length; a list of equal numbers counts as one (RFC
// 9110 section 8.6).
func (r *Response) lengths(list string) *Error {
	s := &r.state
	for more := true; more; {
		var v string
		v, list, more = nextElement(list)
		before, had := s.contentLength, s.hasLength
		if err := s.length(v); err != nil {
			return err
		}
		if had && before != s.contentLength {
			return errTwoLengths
		}
	}
	return nil
}

// finish decides how the body ends (section 6.3) and whether the connection
// can be used again.
func (r *Response) finish(method string) *Error {
	s := &r.state
	r.Close = s.close || r.Minor == 0 && !s.keepAlive
	r.Fields = s.denominate(r.Fields)
	if s.upgrade {
		r.Upgrade = s.upgradeTo
	}
	if s.hasLength {
		r.Length = s.contentLength
	}
	switch {
	case r.Status < 200:
		if s.codings > 0 || r.Length > 0 {
			return errInterimBody
		}
		r.Length = -1
		return nil
	case r.Status == 204: // a body after it would be read as the next response
		r.Close = r.Close || s.codings > 0 || r.Length > 0
		r.Length = -1
		return nil
	case r.Status == 304 || method == "HEAD":
		if s.codings > 0 {
			r.Close, r.Length = r.Close || s.hasLength, -1
		}
		return nil
	}
	return r.finishBody()
}

func (r *Response) finishBody() *Error {
	s := &r.state
	switch {
	case s.codings > 0:
		// With both, Transfer-Encoding wins, but somebody upstream may have
		// been fooled (sections 6.1 and 6.3).
		r.Close = r.Close || s.hasLength || r.Minor == 0
		r.Framing, r.Length = Chunked, -1
		return s.codingError()
	case s.hasLength:
		r.Framing = Length
	default:
		r.Framing, r.Close = UntilClose, true
	}
	return nil
}
