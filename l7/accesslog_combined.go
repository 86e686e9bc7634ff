package l7

import "strconv"

// appendCombined appends the line in the format that Apache and nginx call
// combined, for tools that read nothing else.
func (b *logBuffer) appendCombined(dst []byte, o *outcome) []byte {
	if o.client.IsValid() {
		dst = o.client.Addr().AppendTo(dst)
	} else {
		dst = append(dst, '-')
	}
	dst = append(dst, " - - ["...)
	dst = o.start.UTC().AppendFormat(dst, "02/Jan/2006:15:04:05 +0000")
	dst = append(dst, `] "`...)
	if o.method != "" {
		dst = appendQuoted(dst, o.method)
		dst = append(dst, ' ')
		dst = appendQuoted(dst, o.target)
		dst = append(dst, ' ')
		dst = append(dst, o.version.String()...)
	} else {
		dst = append(dst, '-')
	}
	dst = append(dst, `" `...)
	dst = strconv.AppendInt(dst, int64(o.status), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, o.bytesOut, 10)
	dst = appendOptional(append(dst, ` "`...), o.referer)
	dst = appendOptional(append(dst, `" "`...), o.agent)
	return append(dst, "\"\n"...)
}

func appendOptional(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, '-')
	}
	return appendQuoted(dst, s)
}

// appendQuoted appends s so that it cannot leave its quotes or its line: what
// is not printable ASCII is escaped as nginx does.
func appendQuoted(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(cut(s, maxLogText)) {
		if c := s[i]; plain[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '\\', 'x', hex[c>>4], hex[c&15])
		}
	}
	return dst
}
