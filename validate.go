package lb

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// validator holds a decoded configuration against what its values mean
// together. It asks whether a field stood in the document, not what it holds:
// a value that did not read was reported already.
type validator struct {
	*parse
	listenerOf map[string]*Listener
	poolOf     map[string]*Pool
}

func newValidator(p *parse) *validator {
	v := &validator{p, map[string]*Listener{}, map[string]*Pool{}}
	for _, l := range p.config.Listeners {
		v.listenerOf[l.Name] = l
	}
	for _, p := range p.config.Pools {
		v.poolOf[p.Name] = p
	}
	return v
}

func (v *validator) all() {
	v.node()
	v.listeners()
	for _, r := range v.config.Routes {
		v.route(r)
	}
	for _, p := range v.config.Pools {
		v.pool(p)
	}
	for _, s := range v.config.Services {
		v.service(s)
	}
	v.binds()
	v.fragments()
	v.config.files = v.files()
}

// errorf points at the value of a decoded field.
func (v *validator) errorf(at any, code, hint, format string, args ...any) {
	v.errorNode(v.places[at], code, hint, format, args...)
}

func (v *validator) errorNode(at Node, code, hint, format string, args ...any) {
	if len(v.errs) >= maxErrors || v.failed[at.node] {
		return
	}
	message := fmt.Sprintf(format, args...)
	if at.doc == nil {
		v.errs = append(v.errs, &Error{Code: code, File: v.options.File, Message: message, Hint: hint})
		return
	}
	v.errs = append(v.errs, at.doc.errorNode(at.node, code, message, hint))
}

// has reports whether the field stood in the document.
func (v *validator) has(at any) bool { return v.places[at].node != nil }

func (v *validator) node() {
	c := v.config
	if !validName(c.Node.Name) {
		v.errorf(&c.Node.Name, CodeName, "a letter or digit, then letters, digits and . _ -; at most 63", "%q is not a name", c.Node.Name)
	}
	for _, file := range []*string{&c.Node.DataDir, &c.Node.RunDir, &c.Fastpath.Pins, &c.Admin.Socket} {
		v.absolute(file)
	}
	if path.Clean(c.Node.DataDir) == path.Clean(c.Node.RunDir) {
		at := &c.Node.RunDir
		if !v.has(at) {
			at = &c.Node.DataDir
		}
		v.errorf(at, CodePath, "give each a directory of its own: one is for what outlives a boot, the other for what must not", "node.data_dir and node.run_dir are both %s", c.Node.RunDir)
	}
	v.socketLength(c)
	v.readOnlySocket(&c.Admin)
	if c.Log.Access != "stdout" && c.Log.Access != "off" {
		v.absolute(&c.Log.Access)
	}
	for i := range c.Fastpath.Interfaces {
		v.interfaceName(&c.Fastpath.Interfaces[i])
	}
	if c.Admin.HTTP == "off" {
		c.Admin.HTTP = ""
	}
	if c.Admin.HTTP != "" {
		v.hostPort(&c.Admin.HTTP)
	}
	if via := &c.Forward.Via; *via != "" && !validToken(strings.ReplaceAll(*via, ":", "")) {
		v.errorf(via, CodeName, "a name, or a host with its port", "%q cannot stand in a Via field", *via)
	}
	v.cluster(c.Cluster)
}

func (v *validator) absolute(file *string) {
	if !path.IsAbs(*file) {
		v.errorf(file, CodePath, "begin it with /", "%q is not an absolute path", *file)
	}
}

// maxSocketPath is what fits into a sockaddr_un.
const maxSocketPath = 107

func (v *validator) socketLength(c *Config) {
	at := &c.Admin.Socket
	if !v.has(at) {
		at = &c.Node.RunDir // whose socket it is by default
	}
	if n := len(c.Admin.Socket); n > maxSocketPath {
		v.errorf(at, CodePath, "", "the admin socket's path has %d bytes; a socket's has at most %d", n, maxSocketPath)
	}
}

func (v *validator) readOnlySocket(a *AdminSettings) {
	at := &a.ReadOnlySocket
	switch {
	case *at == "off":
		*at = ""
	case *at == "":
	case !path.IsAbs(*at):
		v.absolute(at)
	case len(*at) > maxSocketPath:
		v.errorf(at, CodePath, "", "the read-only socket's path has %d bytes; a socket's has at most %d", len(*at), maxSocketPath)
	case *at == a.Socket:
		v.errorf(at, CodeBindTwice, "", "the read-only socket is the admin socket")
	}
}

func (v *validator) interfaceName(name *string) {
	if len(*name) == 0 || len(*name) > 15 || strings.ContainsAny(*name, "/ \t") {
		v.errorf(name, CodeName, "", "%q is not the name of a network interface", *name)
	}
}

// hostPort wants "host:port"; the host may be a name.
func (v *validator) hostPort(address *string) {
	host, port, err := net.SplitHostPort(*address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n > 65535 || strings.ContainsAny(host, " /@") {
		v.errorf(address, CodeAddress, addressHint(*address), "%q is not a host with a port", *address)
	}
}

func (v *validator) cluster(c *ClusterSettings) {
	if c == nil {
		return
	}
	if !validName(c.Name) {
		v.errorf(&c.Name, CodeName, "", "%q is not a name", c.Name)
	}
	for i := range c.Join {
		v.hostPort(&c.Join[i])
	}
	bind := c.Bind.Addr()
	switch {
	case !bind.IsValid(): // reported
	case c.KeyFile == "" && !bind.IsLoopback():
		v.errorf(&c.Bind, CodeClusterKey, "set key_file; `lbctl cluster key new` prints a key",
			"gossip on %s would be neither encrypted nor authenticated: key_file is missing", c.Bind)
	case !v.config.Node.Address.IsValid():
		v.errorf(&c.Bind, CodeNodeAddress, "set node.address", "peers cannot reach %s, and node.address does not say where this node is", c.Bind)
	}
	if c.KeyFile != "" {
		v.absolute(&c.KeyFile)
	}
}

func (v *validator) listeners() {
	for _, l := range v.config.Listeners {
		v.listener(l)
	}
}

func (v *validator) listener(l *Listener) {
	switch {
	case l.Protocol == ListenHTTPS && !v.has(&l.TLS):
		v.errorf(&l.Name, CodeTLSNeeded, "add tls with certificates", "listener %q speaks https but has no tls", l.Name)
	case l.Protocol != ListenHTTPS && v.has(&l.TLS):
		v.errorf(&l.TLS, CodeTLSRefused, "write protocol: https", "listener %q has tls but speaks %s", l.Name, l.Protocol)
	}
	switch {
	case l.Protocol != ListenTCP && v.has(&l.Pool):
		v.errorf(&l.Pool, CodeListenerPool, "name it in a route", "listener %q speaks %s; only a tcp listener names a pool", l.Name, l.Protocol)
	case l.Protocol == ListenTCP && !v.has(&l.Pool):
		v.errorf(&l.Name, CodeListenerPool, "add pool", "listener %q speaks tcp but names no pool", l.Name)
	case l.Protocol == ListenTCP:
		v.poolExists(&l.Pool, l.Pool, "listener")
		if p := v.poolOf[l.Pool]; p != nil && p.TLS != nil {
			v.errorf(&l.Pool, CodeListenerPool, "a pool without tls; check: { tls: true } checks over TLS all the same",
				"listener %q passes bytes on as its clients send them, and pool %q wants them in TLS", l.Name, l.Pool)
		}
	}
	switch {
	case l.Protocol == ListenTCP && v.has(&l.Normalize):
		v.errorf(&l.Normalize, CodeOtherSetting, "", "listener %q speaks tcp, which has no paths to normalize", l.Name)
	case l.Protocol != ListenTCP && v.has(&l.IdleTimeout):
		v.errorf(&l.IdleTimeout, CodeOtherSetting, "set timeout: { idle, tunnel } of its routes", "idle_timeout is for tcp listeners; listener %q speaks %s", l.Name, l.Protocol)
	}
}

// binds finds addresses that are bound twice. Port 0, any free port, never
// clashes; an address beside a wildcard of its port is fine.
func (v *validator) binds() {
	type owner struct {
		at   any
		name string
	}
	type place struct {
		netip.AddrPort
		protocol Protocol
	}
	seen := map[place]owner{}
	claimAs := func(a netip.AddrPort, p Protocol, o owner) {
		if !a.IsValid() || a.Port() == 0 {
			return
		}
		if a.Addr() == netip.IPv4Unspecified() {
			a = netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port()) // which takes IPv4 too
		}
		if first, taken := seen[place{a, p}]; taken {
			v.errorf(o.at, CodeBindTwice, "", "%s binds %s, which %s binds already", o.name, a, first.name)
			return
		}
		seen[place{a, p}] = o
	}
	claim := func(a netip.AddrPort, o owner) { claimAs(a, TCP, o) }
	if v.config.Cluster != nil {
		claim(v.config.Cluster.Bind, owner{&v.config.Cluster.Bind, "cluster"})
	}
	if a, err := netip.ParseAddrPort(v.config.Admin.HTTP); err == nil {
		claim(a, owner{&v.config.Admin.HTTP, "admin"})
	}
	for _, l := range v.config.Listeners {
		claim(l.Bind, owner{&l.Bind, fmt.Sprintf("listener %q", l.Name)})
	}
	for _, s := range v.config.Services {
		claimAs(s.Bind, s.Transport(), owner{&s.Bind, fmt.Sprintf("service %q", s.Name)})
	}
}

// poolExists reports a reference to a pool that is none.
func (v *validator) poolExists(at any, name, who string) {
	if v.has(at) && v.poolOf[name] == nil {
		v.errorf(at, CodeRoutePool, nearest(name, keys(v.poolOf)), "%s uses pool %q, which does not exist", who, name)
	}
}

func (v *validator) pool(p *Pool) {
	v.backends(p)
	if p.Bind.IsUnspecified() || p.Bind.IsMulticast() {
		v.errorf(&p.Bind, CodeAddress, "leave bind out", "bind: %s is no address to connect from", p.Bind)
	}
	v.discover(p)
	if p.TLS != nil && v.has(&p.TLS.Cert) != v.has(&p.TLS.Key) {
		v.errorf(&p.TLS, CodeKeyPair, "", "a client certificate needs both cert and key")
	}
	if p.ProxyProtocol != "" && p.Protocol != HTTP1 {
		v.errorf(&p.ProxyProtocol, CodeProxyHeader, "X-Forwarded-For names the client of each request",
			"a PROXY header names one client for a whole connection; connections of protocol %s are shared by many", p.Protocol)
	}
	switch warm := &p.Connections.Warm; {
	case *warm > 0 && p.ProxyProtocol != "":
		v.errorf(warm, CodeProxyHeader, "", "no connection can be made before its client is known, whom the PROXY header names")
	case *warm > min(p.Connections.Idle, p.Connections.PerBackend):
		v.errorf(warm, CodeRange, "raise idle and per_backend, too", "warm is %d, but only %d idle connections are kept", *warm, min(p.Connections.Idle, p.Connections.PerBackend))
	}
	v.hash(p)
	v.check(p)
}

func (v *validator) backends(p *Pool) {
	seen := map[string]bool{}
	for _, b := range p.Backends {
		v.backend(p, b)
		if b.Address != "" && seen[b.Address] {
			v.errorf(&b.Address, CodeBackendTwice, "raise its weight instead", "backend %s stands twice%s", b.Address, inPool(p.Name))
		}
		seen[b.Address] = true
	}
}

func inPool(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" in pool %q", name)
}

// backend brings the address into its one form, which is its identity.
func (v *validator) backend(p *Pool, b *Backend) {
	if !v.has(&b.Address) {
		return
	}
	if file, unix := strings.CutPrefix(b.Address, "unix:"); unix {
		v.unixBackend(p, b, file)
		return
	}
	a, err := netip.ParseAddrPort(b.Address)
	switch {
	case err != nil:
		v.errorf(&b.Address, CodeAddress, backendHint(b.Address), "backend %q is not an address with a port", b.Address)
	case a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast():
		v.errorf(&b.Address, CodeAddress, "", "backend %q is no address to connect to", b.Address)
	case p.Bind.IsValid() && a.Addr().Unmap().Is4() != p.Bind.Unmap().Is4():
		v.errorf(&b.Address, CodeAddress, "", "backend %s cannot be reached from %s, the pool's bind", b.Address, p.Bind)
	default:
		b.Address = canonicalAddress(b.Address)
	}
}

// backendHint says how backends are found by their name.
func backendHint(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil && validHost(host) {
		return fmt.Sprintf("a pool finds them by name: discover: { dns: %q }", address)
	}
	return addressHint(address)
}

// canonicalAddress is the one form of a backend's address that reads; any
// other text is its own.
func canonicalAddress(s string) string {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return s
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

func (v *validator) unixBackend(p *Pool, b *Backend, file string) {
	switch {
	case !path.IsAbs(file) || len(file) > maxSocketPath:
		v.errorf(&b.Address, CodeAddress, "", "backend %q: unix: wants an absolute path of at most %d bytes", b.Address, maxSocketPath)
	case p.TLS != nil && p.TLS.ServerName == "" && !p.TLS.Insecure:
		v.errorf(&b.Address, CodeServerName, "set tls.server_name", "backend %q has no host name to verify its certificate by", b.Address)
	}
}

func (v *validator) hash(p *Pool) {
	if p.Hash == nil {
		return
	}
	if p.Balance != "maglev" && p.Balance != "ring_hash" {
		v.errorf(&p.Hash, CodeHash, "", "hash is for balance maglev and ring_hash; this pool balances by %s", p.Balance)
	}
	if count(v.has(&p.Hash.Header), v.has(&p.Hash.Cookie), v.has(&p.Hash.Client)) != 1 {
		v.errorf(&p.Hash, CodeHash, "", "hash wants exactly one of header, cookie, client")
	}
	if v.has(&p.Hash.Client) && !p.Hash.Client {
		v.errorf(&p.Hash.Client, CodeHash, "remove hash: the client is the default", "client: false is nothing to go by")
	}
	for _, name := range []*string{&p.Hash.Header, &p.Hash.Cookie} {
		if v.has(name) && !validToken(*name) {
			v.errorf(name, CodeHash, "", "%q is not a name", *name)
		}
	}
}

func (v *validator) check(p *Pool) {
	c := p.Check
	if c == nil {
		return
	}
	if count(v.has(&c.HTTP), v.has(&c.TCP), v.has(&c.GRPC)) != 1 {
		v.errorf(c, CodeCheckKind, "", "a check is exactly one of http, tcp, grpc")
		return
	}
	if v.has(&c.TCP) && !c.TCP {
		v.errorf(&c.TCP, CodeCheckKind, "remove the check to have none", "tcp: false is no check")
	}
	if v.has(&c.HTTP) && !validTarget(c.HTTP) {
		v.errorf(&c.HTTP, CodeCheckKind, "begin it with /", "%q is not a path to ask for", c.HTTP)
	}
	if v.has(&c.Expect) && !v.has(&c.HTTP) {
		v.errorf(&c.Expect, CodeCheckKind, "", "expect is for http checks")
	}
	if v.has(&c.Host) && v.has(&c.TCP) {
		v.errorf(&c.Host, CodeCheckKind, "", "host is for http and grpc checks")
	}
	if v.has(&c.Host) && !validField(c.Host) {
		v.errorf(&c.Host, CodeText, "", "%q cannot be a Host", c.Host)
	}
	v.checkParts(c, p.TLS != nil)
}

// checkParts refuses parts of a check that its kind does not have.
func (v *validator) checkParts(c *Check, secure bool) {
	for _, part := range []struct {
		name string
		at   any
		of   string
		fits bool
	}{
		{"method", &c.Method, "http", v.has(&c.HTTP)}, {"body", &c.Body, "http", v.has(&c.HTTP)},
		{"send", &c.Send, "tcp", v.has(&c.TCP)}, {"receive", &c.Receive, "tcp", v.has(&c.TCP)},
	} {
		if v.has(part.at) && !part.fits {
			v.errorf(part.at, CodeCheckKind, "", "%s is for %s checks", part.name, part.of)
		}
	}
	if v.has(&c.Body) && c.Method == "HEAD" {
		v.errorf(&c.Body, CodeCheckKind, "use GET", "an answer to HEAD has no body")
	}
	if v.has(&c.Certificate) && !secure && !c.TLS {
		v.errorf(&c.Certificate, CodeCheckKind, "set tls: true to look at the certificate all the same", "requests to this pool's backends are not over TLS, so there is no certificate")
	}
	if v.has(&c.Fast) && c.Fast > c.Interval {
		v.errorf(&c.Fast, CodeCheckKind, "", "fast is longer than the interval, %s", c.Interval)
	}
}

func count(facts ...bool) int {
	n := 0
	for _, f := range facts {
		if f {
			n++
		}
	}
	return n
}

// validTarget reports whether s may stand in a request line.
func validTarget(s string) bool {
	return strings.HasPrefix(s, "/") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' })
}

// validField reports whether s may be a field's value.
func validField(s string) bool {
	return s == strings.TrimSpace(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// validToken reports whether s is a token of RFC 9110: a method, a field name.
func validToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}

// framing are the fields that the proxy alone decides on.
var framing = []string{"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}

func isFraming(name string) bool { return slices.Contains(framing, strings.ToLower(name)) }
