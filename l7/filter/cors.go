package filter

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// cors lets pages of other origins use this one, as the Fetch standard says:
//
//	cors:
//	  origins: ["https://shop.example", "https://*.shop.example"]   # or ["*"]
//	  methods: [GET, POST, PUT]
//	  headers: [content-type, x-token]      # what requests may have; "*": any
//	  expose: [x-total]                     # what pages may read of a response
//	  credentials: true
//	  max_age: 10m
//
// It answers preflights itself, and replaces what a backend says of the matter.
// Without methods GET, HEAD and POST are allowed.
func cors(n lb.Node) (l7.Filter, error) {
	var c struct {
		Origins     []string      `yaml:"origins" need:"true" range:"1..1000"`
		Methods     []string      `yaml:"methods" default:"GET,HEAD,POST"`
		Headers     []string      `yaml:"headers"`
		Expose      []string      `yaml:"expose"`
		Credentials bool          `yaml:"credentials"`
		MaxAge      time.Duration `yaml:"max_age" default:"10m" range:"0s..24h"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	p := &corsPolicy{credentials: c.Credentials, methods: strings.Join(c.Methods, ", "), headers: strings.Join(c.Headers, ", "),
		expose: strings.Join(c.Expose, ", "), maxAge: strconv.Itoa(int(c.MaxAge.Seconds()))}
	for _, method := range c.Methods {
		if err := checkName(n.Key("methods"), method); err != nil {
			return l7.Filter{}, n.Key("methods").Errorf("%q is not a method", method)
		}
	}
	for key, names := range map[string][]string{"headers": c.Headers, "expose": c.Expose} {
		for _, name := range names {
			if err := checkName(n.Key(key), name); err != nil {
				return l7.Filter{}, err
			}
		}
	}
	p.anyHeader = slices.Contains(c.Headers, "*")
	if err := p.setOrigins(n, c.Origins); err != nil {
		return l7.Filter{}, err
	}
	return l7.Filter{Name: "cors", Request: p.preflight, Response: p.allow}, nil
}

// corsPolicy is what cors is told, in the form that fields have.
type corsPolicy struct {
	any      bool
	exact    []string
	suffixes []wildcard

	credentials              bool
	anyHeader                bool
	methods, headers, expose string
	maxAge                   string
}

// wildcard is an origin with any name before its suffix.
type wildcard struct{ scheme, suffix string }

func (p *corsPolicy) setOrigins(n lb.Node, origins []string) error {
	for _, o := range origins {
		scheme, host, ok := strings.Cut(strings.ToLower(o), "://")
		switch rest, wild := strings.CutPrefix(host, "*."); {
		case o == "*" && p.credentials:
			return n.Key("origins").Errorf(`origins "*" with credentials would let every page act as its user; list them`)
		case o == "*":
			p.any = true
		case o == "null":
			p.exact = append(p.exact, o)
		case !ok || host == "" || rest == "" || strings.ContainsAny(rest, "*/?# ") || scheme == "":
			return n.Key("origins").Errorf("%q is not an origin: write scheme://host or scheme://host:port", o)
		case wild:
			p.suffixes = append(p.suffixes, wildcard{scheme + "://", "." + rest})
		default:
			p.exact = append(p.exact, scheme+"://"+host)
		}
	}
	return nil
}

func (p *corsPolicy) allows(origin string) bool {
	if p.any || slices.Contains(p.exact, origin) {
		return true
	}
	for _, w := range p.suffixes {
		if rest, ok := strings.CutPrefix(origin, w.scheme); ok && len(rest) > len(w.suffix) && strings.HasSuffix(rest, w.suffix) {
			return true
		}
	}
	return false
}

// preflight answers a browser that asks whether it may send a request.
func (p *corsPolicy) preflight(s *l7.Session) (*l7.Response, error) {
	r := s.Request
	origin := r.Header.Get("origin")
	if r.Method != "OPTIONS" || origin == "" || !r.Header.Has("access-control-request-method") {
		return nil, nil
	}
	res := &l7.Response{Status: 204}
	res.Header.Add("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
	if !p.allows(origin) {
		return res, nil // without our word the browser refuses
	}
	p.name(&res.Header, origin)
	res.Header.Add("Access-Control-Allow-Methods", p.methods)
	headers := p.headers
	if p.anyHeader {
		headers = r.Header.Get("access-control-request-headers")
	}
	if headers != "" {
		res.Header.Add("Access-Control-Allow-Headers", headers)
	}
	res.Header.Add("Access-Control-Max-Age", p.maxAge)
	return res, nil
}

// allow says in a response who may read it.
func (p *corsPolicy) allow(s *l7.Session, r *l7.Response) error {
	for _, name := range corsFields {
		r.Header.Del(name)
	}
	if !p.any {
		addVary(&r.Header, "Origin")
	}
	origin := s.Request.Header.Get("origin")
	if origin == "" || !p.allows(origin) {
		return nil
	}
	p.name(&r.Header, origin)
	if p.expose != "" {
		r.Header.Add("Access-Control-Expose-Headers", p.expose)
	}
	return nil
}

var corsFields = []string{"access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"}

func (p *corsPolicy) name(h *l7.Header, origin string) {
	if p.any {
		origin = "*"
	}
	h.Add("Access-Control-Allow-Origin", origin)
	if p.credentials {
		h.Add("Access-Control-Allow-Credentials", "true")
	}
}
