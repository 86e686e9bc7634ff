package h1

import "strings"

// CheckTarget judges the target of a request that came by another protocol, and
// may leave by this one, as Parse would.
func CheckTarget(method, target string, l *Limits) error {
	switch {
	case method == "CONNECT" || method == "TRACE":
		return errMethodHere
	case len(target) > l.uri():
		return errURITooLong
	case target == "*" && method == "OPTIONS":
		return nil
	case target == "" || target[0] != '/':
		return errTarget
	}
	path := target
	for i := range len(target) {
		if class[target[i]]&inQuery == 0 {
			return errTargetByte
		}
		if target[i] == '?' && len(path) == len(target) {
			path = target[:i]
		}
	}
	if !validEscapes(path) {
		return errEscape
	}
	return nil
}

// CheckHost judges an authority in the same way.
func CheckHost(host string) error {
	if host == "" || !all(host, inHost) {
		return errHost
	}
	return nil
}

// CheckField tells what becomes of a field of such a request: is it passed on,
// and may the request be served at all?
func CheckField(name, value string) (keep bool, err error) {
	switch {
	case fold(name, "expect") && !fold(value, "100-continue"):
		return false, errExpect
	case fold(name, "proxy-authorization"), fold(name, "http2-settings"):
		return false, nil
	}
	return !hasUnderscore(name), nil
}

// hasUnderscore: see Request.Fields.
func hasUnderscore(name string) bool { return strings.IndexByte(name, '_') >= 0 }

// CheckTrailer tells whether a trailer of such a request is passed on.
func CheckTrailer(name string) bool {
	return mayTrail(name) && !hasUnderscore(name)
}

// SameHost compares authorities.
func SameHost(a, b string) bool { return sameHost(a, b) }
