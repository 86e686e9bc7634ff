package filter

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// headers edits the fields of requests and responses:
//
//	headers:
//	  request:  { remove: [x-debug], set: { x-edge: "1" }, add: { via: "1.1 edge" } }
//	  response: { remove: [server] }
//
// Within a message it removes, then sets, then adds. It edits what the backend
// gets, attempt by attempt, after everything else did; routing and other filters
// see the request as the client sent it. Setting host changes the Host field.
func headers(n lb.Node) (l7.Filter, error) {
	var c struct {
		Request  edits `yaml:"request"`
		Response edits `yaml:"response"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	request, requestErr := compile(n.Key("request"), &c.Request)
	response, responseErr := compile(n.Key("response"), &c.Response)
	if err := errors.Join(requestErr, responseErr); err != nil {
		return l7.Filter{}, err
	}
	f := l7.Filter{Name: "headers"}
	host, setsHost := take(&request.set, "host")
	if slices.Contains(response.names(), "host") {
		return f, n.Key("response").Errorf("a response has no host")
	}
	if setsHost || !request.empty() {
		f.Upstream = func(_ *l7.Session, r *l7.Request) error {
			if setsHost {
				r.Host = host
			}
			request.apply(&r.Header)
			return nil
		}
	}
	if !response.empty() {
		f.Response = func(_ *l7.Session, r *l7.Response) error {
			response.apply(&r.Header)
			return nil
		}
	}
	return f, nil
}

// edits is what the configuration says for one direction.
type edits struct {
	Remove []string          `yaml:"remove"`
	Set    map[string]string `yaml:"set"`
	Add    map[string]string `yaml:"add"`
}

// compiled are edits in the order they happen.
type compiled struct {
	remove   []string
	set, add []l7.Field
}

func (c *compiled) empty() bool { return len(c.remove)+len(c.set)+len(c.add) == 0 }

func (c *compiled) apply(h *l7.Header) {
	for _, name := range c.remove {
		h.Del(name)
	}
	for _, f := range c.set {
		h.Set(f.Name, f.Value)
	}
	for _, f := range c.add {
		h.Add(f.Name, f.Value)
	}
}

// names are the names of all edits, in lower case.
func (c *compiled) names() []string {
	names := slices.Clone(c.remove)
	for _, f := range slices.Concat(c.set, c.add) {
		names = append(names, strings.ToLower(f.Name))
	}
	return names
}

func compile(n lb.Node, e *edits) (*compiled, error) {
	var errs []error
	c := &compiled{}
	for _, name := range e.Remove {
		errs = append(errs, checkName(n.Key("remove"), name))
		c.remove = append(c.remove, strings.ToLower(name))
	}
	fields := func(key string, from map[string]string) (out []l7.Field) {
		at := n.Key(key)
		for _, name := range slices.Sorted(maps.Keys(from)) {
			errs = append(errs, checkName(at, name), checkValue(at.Key(name), name, from[name]))
			out = append(out, l7.Field{Name: name, Value: from[name]})
		}
		return out
	}
	c.set = fields("set", e.Set)
	c.add = fields("add", e.Add)
	if _, found := find(c.add, "host"); found || slices.Contains(c.remove, "host") {
		errs = append(errs, n.Errorf("host can only be set"))
	}
	for _, f := range c.set {
		if slices.Contains(c.remove, strings.ToLower(f.Name)) {
			errs = append(errs, n.Key("remove").Errorf("%s is both set and removed", f.Name))
		}
	}
	return c, errors.Join(errs...)
}

// find returns the value of a field.
func find(fields []l7.Field, name string) (value string, found bool) {
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value, true
		}
	}
	return "", false
}

// take is find, and removes the field.
func take(fields *[]l7.Field, name string) (value string, found bool) {
	if value, found = find(*fields, name); found {
		*fields = slices.DeleteFunc(*fields, func(f l7.Field) bool { return strings.EqualFold(f.Name, name) })
	}
	return value, found
}

// framing are the fields that only the proxy writes.
var framing = []string{"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

// checkName: a name is a token (RFC 9110 section 5.6.2).
func checkName(n lb.Node, name string) error {
	if name == "" {
		return n.Errorf("a field has no name")
	}
	for _, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return n.Errorf("%q is not a field name", name)
		}
	}
	if slices.Contains(framing, strings.ToLower(name)) {
		return n.Errorf("%s belongs to the connection; the proxy writes it", name)
	}
	return nil
}

// checkValue: a value holds no control character (RFC 9110 section 5.5).
func checkValue(n lb.Node, name, value string) error {
	for _, c := range []byte(value) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return n.Errorf("the value of %s has a control character", name)
		}
	}
	return nil
}
