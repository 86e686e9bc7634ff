package lb

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Discovery says where a pool finds backends besides those it lists: exactly
// one of DNS, SRV and File.
type Discovery struct {
	DNS     string           `yaml:"dns"`                  // host:port: each A and AAAA address, as long as its TTL says
	SRV     string           `yaml:"srv"`                  // a name such as _http._tcp.app.internal: its targets, with their ports, weights and priorities
	File    string           `yaml:"file"`                 // a file that holds a list of backends as the document would
	Servers []netip.AddrPort `yaml:"servers" range:"0..8"` // DNS servers; default those of /etc/resolv.conf
}

// String is the source as an operator would say it, one name for one source.
func (d Discovery) String() string {
	text := "file " + d.File
	switch {
	case d.DNS != "":
		text = "dns " + d.DNS
	case d.SRV != "":
		text = "srv " + d.SRV
	}
	between := " at "
	for _, s := range d.Servers {
		text += between + s.String()
		between = ","
	}
	return text
}

// WithFound is the configuration with the backends that were found for pools
// that discover some, by pool; c itself stays as it is. A backend that the
// document lists, too, is as the document says.
func (c *Config) WithFound(found map[string][]Backend) *Config {
	if len(found) == 0 {
		return c
	}
	with := *c
	with.Pools = slices.Clone(c.Pools)
	for i, p := range with.Pools {
		if p.Discover != nil && len(found[p.Name]) > 0 {
			with.Pools[i] = p.withFound(found[p.Name])
		}
	}
	return &with
}

func (p *Pool) withFound(found []Backend) *Pool {
	with := *p
	with.Backends = slices.Clone(p.Backends)
	known := make(map[string]bool, len(p.Backends)+len(found))
	for _, b := range p.Backends {
		known[b.Address] = true
	}
	for _, b := range found {
		if known[b.Address] {
			continue
		}
		known[b.Address] = true
		b.Found = true
		with.Backends = append(with.Backends, &b)
	}
	return &with
}

// FoundFile is the name under which found backends travel among the files of a
// configuration. No file can have it.
const FoundFile = "\x00found"

// EncodeFound is the content of FoundFile.
func EncodeFound(found map[string][]Backend) []byte {
	text, err := json.Marshal(found) // keys are sorted
	if err != nil {
		panic("lb: encode found backends: " + err.Error())
	}
	return text
}

// DecodeFound reads what EncodeFound wrote; no text is nothing found.
func DecodeFound(text []byte) (map[string][]Backend, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var found map[string][]Backend
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("read the backends that were found: %w", err)
	}
	return found, nil
}

// MaxBackends is how many backends a pool, or a source of them, may have.
const MaxBackends = 10_000

// ParseBackends reads a list of backends as a pool's has it: the content of a
// file that a pool discovers from. The error is an Errors.
func ParseBackends(file string, text []byte) ([]Backend, error) {
	p := newParse(Options{File: file})
	doc, problem := open(file, text)
	switch {
	case problem != nil:
		return nil, Errors{problem}
	case doc.root == nil:
		return nil, Errors{{Code: CodeEmpty, File: file, Message: "the file lists nothing", Hint: "write [] for no backends"}}
	}
	pool := Pool{}
	d := newDecoder(doc, p.places)
	d.list(doc.root, reflect.ValueOf(&pool.Backends).Elem(), field{key: "the file", low: "0", high: strconv.Itoa(MaxBackends)})
	p.errs, p.failed = d.errs, d.failed
	newValidator(p).backends(&pool)
	if err := p.errs.sorted(); err != nil {
		return nil, err
	}
	out := make([]Backend, len(pool.Backends))
	for i, b := range pool.Backends {
		out[i] = *b
	}
	return out, nil
}

// discover checks where a pool finds backends.
func (v *validator) discover(p *Pool) {
	d := p.Discover
	if d == nil {
		if !v.has(&p.Backends) {
			v.errorf(p, CodeMissing, "", "backends is missing")
		}
		return
	}
	if count(v.has(&d.DNS), v.has(&d.SRV), v.has(&d.File)) != 1 {
		v.errorf(&p.Discover, CodeDiscover, "", "discover wants exactly one of dns, srv, file")
		return
	}
	if v.has(&d.DNS) {
		v.lookupAddress(&d.DNS)
	}
	if v.has(&d.SRV) && !validHost(d.SRV) {
		v.errorf(&d.SRV, CodeDiscover, "such as _http._tcp.app.internal", "%q is not a name to ask DNS for", d.SRV)
	}
	if v.has(&d.File) && !path.IsAbs(d.File) {
		v.errorf(&d.File, CodePath, "begin it with /", "%q is not an absolute path", d.File)
	}
	if v.has(&d.File) && v.has(&d.Servers) {
		v.errorf(&d.Servers, CodeDiscover, "", "servers is for dns and srv")
	}
	for i, s := range d.Servers {
		if s.IsValid() && (s.Port() == 0 || s.Addr().IsUnspecified()) {
			v.errorf(&d.Servers[i], CodeAddress, "", "%s is no address to ask", s)
		}
	}
	v.foundName(p)
}

// lookupAddress wants a name, and the port that all its addresses share.
func (v *validator) lookupAddress(at *string) {
	host, port, err := net.SplitHostPort(*at)
	n, bad := strconv.ParseUint(port, 10, 16)
	if err != nil || bad != nil || n == 0 || !validHost(host) {
		v.errorf(at, CodeDiscover, "such as app.internal:8080", "%q is not a name with a port", *at)
		return
	}
	if _, err := netip.ParseAddr(host); err == nil {
		v.errorf(at, CodeDiscover, "list it under backends", "%q is an address; it needs no discovery", *at)
	}
}

// foundName is the name by which the certificates of found backends are
// verified: the one that was asked for, unless the document says another. The
// addresses in an SRV record or a file have none.
func (v *validator) foundName(p *Pool) {
	if p.TLS == nil || p.TLS.ServerName != "" || p.TLS.Insecure {
		return
	}
	if p.Discover.DNS != "" && len(p.Backends) == 0 {
		p.TLS.ServerName, _, _ = net.SplitHostPort(p.Discover.DNS)
		return
	}
	v.errorf(&p.TLS, CodeServerName, "set tls.server_name", "backends of pool %q that are discovered have no host name to verify their certificates by", p.Name)
}

// validHost reports whether s is a host name that DNS may know: labels of
// letters, digits, hyphens and underscores.
func validHost(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}
