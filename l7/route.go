package l7

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/cirque-lb/lb"
)

// Route is a route as it is built into a snapshot.
type Route struct {
	Config *lb.Route
	Name   string // "route:LINE", as logs call it

	match  matcher
	chain  chain
	splits []split // where requests go; empty: the proxy answers itself
	total  int     // of the splits' weights
	retry  retryOn
}

// split is one pool of a route with its weight.
type split struct {
	pool   *Pool
	weight int
}

// pick returns the route's pool for a request, by weight.
func (r *Route) pick(random uint64) *Pool {
	if len(r.splits) == 1 {
		return r.splits[0].pool
	}
	if r.total == 0 {
		return nil
	}
	at := int(random % uint64(r.total))
	for _, s := range r.splits {
		if at -= s.weight; at < 0 {
			return s.pool
		}
	}
	return nil
}

// matcher is a lb.Match made ready.
type matcher struct {
	hosts   []string // lower case; "*.suffix" begins with the dot
	methods []string
	path    string
	exact   bool
	pattern *regexp.Regexp
	fields  []Field
	query   []Field
}

func newMatcher(m *lb.Match) (matcher, error) {
	out := matcher{methods: m.Method}
	for _, h := range m.Host {
		out.hosts = append(out.hosts, strings.ToLower(strings.TrimPrefix(h, "*")))
	}
	switch {
	case strings.HasPrefix(m.Path, "="):
		out.path, out.exact = m.Path[1:], true
	case strings.HasPrefix(m.Path, "~"):
		pattern, err := regexp.Compile(m.Path[1:])
		if err != nil {
			return out, fmt.Errorf("path %q: %w", m.Path, err)
		}
		out.pattern = pattern
	default:
		out.path = m.Path
	}
	out.fields = sortedFields(m.Header)
	out.query = sortedFields(m.Query)
	return out, nil
}

func sortedFields(m map[string]string) []Field {
	var fields []Field
	for name, value := range m {
		fields = append(fields, Field{Name: name, Value: value})
	}
	slices.SortFunc(fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// matches reports whether a request is of this route; the listener is matched
// by the list the route is in.
func (m *matcher) matches(r *Request) bool {
	return m.matchHost(r.Host) && m.matchPath(r) && m.matchMethod(r.Method) &&
		m.matchFields(r.Header) && m.matchQuery(r.Query())
}

func (m *matcher) matchHost(host string) bool {
	if len(m.hosts) == 0 {
		return true
	}
	host = strings.TrimSuffix(withoutPort(host), ".")
	for _, h := range m.hosts {
		if equalFold(h, host) {
			return true
		}
		if strings.HasPrefix(h, ".") && len(host) > len(h) && equalFold(host[len(host)-len(h):], h) {
			return true
		}
	}
	return false
}

// withoutPort cuts the port of an authority; an IPv6 address keeps its brackets.
func withoutPort(authority string) string {
	for i := len(authority) - 1; i >= 0; i-- {
		switch c := authority[i]; {
		case c == ':':
			return authority[:i]
		case c < '0' || c > '9':
			return authority
		}
	}
	return authority
}

func (m *matcher) matchPath(r *Request) bool {
	switch {
	case m.pattern != nil:
		return m.pattern.MatchString(r.Path())
	case m.exact:
		return r.Path() == m.path
	case m.path == "" || m.path == "/":
		return true
	}
	return underPrefix(r.Path(), m.path)
}

// underPrefix reports whether path is prefix or below it: /api matches /api and
// /api/x, not /apix.
func underPrefix(path, prefix string) bool {
	if !strings.HasPrefix(path, prefix) {
		return false
	}
	return len(path) == len(prefix) || prefix[len(prefix)-1] == '/' || path[len(prefix)] == '/'
}

func (m *matcher) matchMethod(method string) bool {
	return len(m.methods) == 0 || slices.Contains(m.methods, method)
}

func (m *matcher) matchFields(h Header) bool {
	for _, want := range m.fields {
		if got, ok := h.Lookup(want.Name); !ok || got != want.Value {
			return false
		}
	}
	return true
}

func (m *matcher) matchQuery(query string) bool {
	for _, want := range m.query {
		if !queryHas(query, want.Name, want.Value) {
			return false
		}
	}
	return true
}

// queryHas reports whether name=value is in a raw query.
func queryHas(query, name, value string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(pair, "=")
		if unescaped(k) == name && unescaped(v) == value {
			return true
		}
	}
	return false
}

func unescaped(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}
