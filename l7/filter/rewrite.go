package filter

import (
	"regexp"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// rewrite changes the path that the backend is asked for, and its Host:
//
//	rewrite: { prefix: /api, to: / }
//	rewrite: { regex: "^/v([0-9]+)/(.*)$", to: "/$2/v$1" }
//	rewrite: { host: origin.example }
//
// A prefix ends at a segment: /api is /api and /api/x, not /apix. A regex (RE2)
// is replaced wherever it matches in the path; $1 or ${1} is what its first
// parentheses hold. The query stays, and paths that do not match stay as they
// are, byte for byte. Routes and other filters see the path that the client
// asked for.
func rewrite(n lb.Node) (l7.Filter, error) {
	var c struct {
		Prefix string `yaml:"prefix"`
		Regex  string `yaml:"regex"`
		To     string `yaml:"to"`
		Host   string `yaml:"host"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	path, err := pathRewriter(n, c.Prefix, c.Regex, c.To)
	if err != nil {
		return l7.Filter{}, err
	}
	if strings.ContainsAny(c.Host, "/?#@ \t\r\n") {
		return l7.Filter{}, n.Key("host").Errorf("%q is not a host", c.Host)
	}
	if path == nil && c.Host == "" {
		return l7.Filter{}, n.Errorf("rewrite wants prefix or regex with to, or host")
	}
	return l7.Filter{Name: "rewrite", Upstream: func(_ *l7.Session, r *l7.Request) error {
		if c.Host != "" {
			r.Host = c.Host
		}
		if path != nil && strings.HasPrefix(r.Target, "/") { // not the * of OPTIONS
			old := r.Path()
			if changed := path(old); changed != old {
				r.Target = rooted(changed) + r.Target[len(old):]
			}
		}
		return nil
	}}, nil
}

// pathRewriter returns what makes a new path of one; nil: nothing does.
func pathRewriter(n lb.Node, prefix, regex, to string) (func(string) string, error) {
	switch {
	case prefix != "" && regex != "":
		return nil, n.Errorf("rewrite wants prefix or regex, not both")
	case prefix == "" && regex == "" && to != "":
		return nil, n.Key("to").Errorf("to is for prefix or regex")
	case prefix == "" && regex == "":
		return nil, nil
	case !strings.HasPrefix(to, "/") && (prefix != "" || !strings.HasPrefix(to, "$")):
		return nil, n.Key("to").Errorf("to is %q; it begins with /", to)
	case !inTarget(to):
		return nil, n.Key("to").Errorf("to is %q; a path has no spaces, ? or #", to)
	case prefix != "" && !strings.HasPrefix(prefix, "/"):
		return nil, n.Key("prefix").Errorf("prefix is %q; it begins with /", prefix)
	case prefix != "":
		return func(path string) string { return replacePrefix(path, prefix, to) }, nil
	}
	re, err := regexp.Compile(regex)
	if err != nil {
		return nil, n.Key("regex").Errorf("regex does not compile: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	if name := unknownGroup(re, to); name != "" {
		return nil, n.Key("to").Errorf("to uses $%s; the regex has no such parentheses", name)
	}
	return func(path string) string {
		if !re.MatchString(path) { // costs nothing; replacing copies
			return path
		}
		return re.ReplaceAllString(path, to)
	}, nil
}

// replacePrefix puts to in the place of prefix; one slash is where they meet the
// rest.
func replacePrefix(path, prefix, to string) string {
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok || rest != "" && rest[0] != '/' && prefix[len(prefix)-1] != '/' {
		return path
	}
	if rest == "" {
		return to
	}
	if rest[0] != '/' || prefix[len(prefix)-1] == '/' {
		rest = "/" + rest
	}
	return strings.TrimSuffix(to, "/") + rest
}

// rooted makes a path of what a regex made.
func rooted(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/" + path
}

// inTarget reports whether s may stand in a request's path.
func inTarget(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '?' || r == '#' })
}

var reference = regexp.MustCompile(`\$(?:(\$)|\{(\w+)\}|(\w+))`)

// unknownGroup returns the first of to's references that the regex does not
// have: it would be replaced by nothing, silently.
func unknownGroup(re *regexp.Regexp, to string) string {
	for _, m := range reference.FindAllStringSubmatch(to, -1) {
		name := m[2] + m[3]
		if name == "" {
			continue // $$ is a dollar
		}
		if !hasGroup(re, name) {
			return name
		}
	}
	return ""
}

func hasGroup(re *regexp.Regexp, name string) bool {
	number, digits := 0, true
	for _, c := range []byte(name) {
		digits = digits && '0' <= c && c <= '9'
		number = min(number*10+int(c)-0x30, 1<<20)
	}
	return digits && number <= re.NumSubexp() || re.SubexpIndex(name) >= 0
}
