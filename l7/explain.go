package l7

import (
	"slices"

	"github.com/cirque-lb/lb"
)

// Mismatch names the first condition of a match that a request does not meet
// (listener, host, path, method, header, query), or "" when it meets all. It
// serves explanations, with the matcher that serves requests.
func Mismatch(m *lb.Match, r *Request) (string, error) {
	ready, err := newMatcher(m)
	if err != nil {
		return "", err
	}
	switch {
	case len(m.Listener) > 0 && !slices.Contains(m.Listener, r.Listener):
		return "listener", nil
	case !ready.matchHost(r.Host):
		return "host", nil
	case !ready.matchPath(r):
		return "path", nil
	case !ready.matchMethod(r.Method):
		return "method", nil
	case !ready.matchFields(r.Header):
		return "header", nil
	case !ready.matchQuery(r.Query()):
		return "query", nil
	}
	return "", nil
}
