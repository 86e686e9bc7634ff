package l7

import "strings"

// Normal makes the path of a target plain (RFC 3986 section 6.2.2): escapes of
// unreserved characters are decoded and the others written in capitals, double
// slashes become one, and dots are resolved, as far as to the root. The query
// stays as it is.
func Normal(target string) string {
	path, query, asked := strings.Cut(target, "?")
	if !strings.HasPrefix(path, "/") || isNormal(path) {
		return target
	}
	path = withoutDots(unescapedPlain(path))
	if asked {
		return path + "?" + query
	}
	return path
}

// isNormal is quick to say that there is nothing to do.
func isNormal(path string) bool {
	return !strings.Contains(path, "%") && !strings.Contains(path, "//") && !strings.Contains(path, "/.")
}

// unescapedPlain decodes the escapes that stand for unreserved characters. A
// percent sign that begins none is escaped: with what is decoded behind it it
// could begin one that nobody has looked at.
func unescapedPlain(path string) string {
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		high, low := -1, -1
		if path[i] == '%' && i+2 < len(path) {
			high, low = hexDigit(path[i+1]), hexDigit(path[i+2])
		}
		if high < 0 || low < 0 {
			if b = append(b, path[i]); path[i] == '%' {
				b = append(b, "25"...)
			}
			continue
		}
		if c := byte(high<<4 | low); unreserved(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', "0123456789ABCDEF"[high], "0123456789ABCDEF"[low])
		}
		i += 2
	}
	return string(b)
}

// hexDigit is the value of a digit, or -1.
func hexDigit(c byte) int {
	if 'A' <= c && c <= 'F' {
		c |= 0x20
	}
	return strings.IndexByte("0123456789abcdef", c)
}

// unreserved characters mean the same whether they are escaped or not (RFC 3986
// section 2.3).
func unreserved(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// withoutDots resolves . and .. and drops empty segments. What ended with a
// slash, or with dots, ends with a slash.
func withoutDots(path string) string {
	var kept []string
	last := ""
	for segment := range strings.SplitSeq(path, "/") {
		switch last = segment; segment {
		case "", ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			kept = append(kept, segment)
		}
	}
	if len(kept) == 0 {
		return "/"
	}
	plain := "/" + strings.Join(kept, "/")
	if last == "" || last == "." || last == ".." {
		plain += "/"
	}
	return plain
}
