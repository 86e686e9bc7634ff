package app

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/l7"
)

// Explain says what would happen to a flow or a request under the running
// configuration and health. It asks what serves, and sends nothing.
func (c control) Explain(_ context.Context, q admin.Question) (admin.Explanation, error) {
	return explainQuestion(c.node.Snapshot(), c.node, q)
}

// witness is what an explanation asks besides the snapshot: a node.
type witness interface {
	Stats() lb.Stats
	Reports() []node.Report
	Explain(lb.Tuple) (node.Path, bool)
}

func explainQuestion(s *node.Snapshot, w witness, q admin.Question) (admin.Explanation, error) {
	e := explanation{s: s, node: w, out: admin.Explanation{Scope: "none", Route: -1}}
	var err error
	if q.URL != "" {
		err = e.url(q)
	} else {
		err = e.flow(q)
	}
	return e.out, err
}

type explanation struct {
	s    *node.Snapshot
	node witness
	out  admin.Explanation
}

// flow explains the packet half: listener, row, owners, slot.
func (e *explanation) flow(q admin.Question) error {
	t, err := parseTuple(q.Tuple)
	if err != nil {
		return err
	}
	l := e.listenerAt(t.Dst)
	e.packet(t)
	if w := e.out.Packet; w.Service != "" {
		e.out.Verdict = fmt.Sprintf("a flow of service %s, which backend %s gets", w.Service, w.Backend)
		if w.Backend == "" {
			e.out.Verdict = fmt.Sprintf("a flow of service %s, dropped: no backend takes it (%s)", w.Service, lb.XDPNoBackend)
		}
		return nil
	}
	if l == nil {
		e.out.Verdict = fmt.Sprintf("no listener has %s: the packet is none of ours and passes to the kernel untouched", t.Dst)
		return nil
	}
	e.listener(l)
	e.out.Verdict = fmt.Sprintf("a connection to listener %s", l.Name)
	if p := e.out.Packet; len(p.Chain) > 0 && p.Chain[0] != e.s.Name {
		e.out.Verdict += fmt.Sprintf(", which %s takes", p.Chain[0])
	}
	e.out.Verdict += "; for what its requests meet, ask with a URL"
	return nil
}

// parseTuple reads "tcp 198.51.100.7:40000 > 192.0.2.10:80"; the protocol and
// the arrow may be left out.
func parseTuple(text string) (lb.Tuple, error) {
	t := lb.Tuple{Protocol: lb.TCP}
	var ends []netip.AddrPort
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ,>→", r) }) {
		switch word {
		case "tcp", "-":
			continue
		case "udp":
			t.Protocol = lb.UDP
			continue
		}
		end, err := netip.ParseAddrPort(strings.TrimSuffix(word, "-"))
		if err != nil {
			return t, badQuestion("%q is not ADDRESS:PORT", word)
		}
		ends = append(ends, netip.AddrPortFrom(end.Addr().Unmap(), end.Port()))
	}
	if len(ends) != 2 {
		return t, badQuestion("a flow is named by two ends, such as tcp 198.51.100.7:40000 > 192.0.2.10:80")
	}
	t.Src, t.Dst = ends[0], ends[1]
	return t, nil
}

func badQuestion(format string, args ...any) error {
	return &admin.Error{Status: http.StatusBadRequest, Code: admin.CodeRequest, Detail: fmt.Sprintf(format, args...)}
}

// packet asks the datapath.
func (e *explanation) packet(t lb.Tuple) {
	p, ok := e.node.Explain(t)
	e.out.Packet = &admin.PacketWay{Tuple: t.String(), VIP: p.VIP, Row: p.Row, Chain: p.Chain, Slot: p.Slot, Why: p.Why, Service: p.Service, Backend: p.Backend}
	if !ok {
		e.out.Packet.Why = []string{"the fast path is off here: the kernel's own hash chooses among the listening sockets"}
	}
}

// listenerAt finds the listener of an address: bound to it, or to all.
func (e *explanation) listenerAt(dst netip.AddrPort) *lb.Listener {
	var wild *lb.Listener
	for _, l := range e.s.Config.Listeners {
		if l.Bind == dst {
			return l
		}
		if l.Bind.Port() == dst.Port() && l.Bind.Addr().IsUnspecified() {
			wild = l
		}
	}
	return wild
}

func (e *explanation) listener(l *lb.Listener) {
	e.out.Listener, e.out.Bind, e.out.Scope = l.Name, l.Bind.String(), "local"
	for _, v := range e.s.VIPs {
		if v.Addr == l.Bind.Addr() && v.Port == l.Bind.Port() {
			e.out.Scope = "vip"
		}
	}
}

// url explains the request half: listener, route, filters, pool, backends.
func (e *explanation) url(q admin.Question) error {
	u, err := url.Parse(q.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return badQuestion("%q is not a URL such as http://shop.example/cart", q.URL)
	}
	l, err := e.listenerFor(u, q.Listener)
	if err != nil {
		return err
	}
	if l == nil {
		e.out.Verdict = fmt.Sprintf("no listener takes %s on port %d; there are %s", u.Scheme, portOf(u), e.listenerNames())
		return nil
	}
	e.listener(l)
	if err := e.from(q.From, u, l); err != nil {
		return err
	}
	r := request(u, q, l)
	route := e.route(r)
	if route == nil {
		e.out.Verdict = fmt.Sprintf("answered with 404 (%s): no route matches", lb.NoRoute)
		return nil
	}
	e.target(route)
	return nil
}

func portOf(u *url.URL) uint16 {
	if p, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		return uint16(p)
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
}

// listenerFor finds who takes the URL: by name, or by scheme, port and address.
func (e *explanation) listenerFor(u *url.URL, name string) (*lb.Listener, error) {
	if name != "" {
		l := e.s.Config.Listener(name)
		if l == nil {
			return nil, &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound,
				Detail: fmt.Sprintf("there is no listener %q", name), Hint: "`lbctl listener list` shows them"}
		}
		return l, nil
	}
	address, err := netip.ParseAddr(u.Hostname())
	for _, l := range e.s.Config.Listeners {
		named := err != nil || l.Bind.Addr().IsUnspecified() || l.Bind.Addr() == address.Unmap()
		if named && string(l.Protocol) == u.Scheme && l.Bind.Port() == portOf(u) {
			return l, nil
		}
	}
	return nil, nil
}

func (e *explanation) listenerNames() string {
	var all []string
	for _, l := range e.s.Config.Listeners {
		all = append(all, fmt.Sprintf("%s (%s %s)", l.Name, l.Protocol, l.Bind))
	}
	return strings.Join(all, ", ")
}

// from explains the packets, too, when the client is named.
func (e *explanation) from(client string, u *url.URL, l *lb.Listener) error {
	if client == "" {
		return nil
	}
	src, err := netip.ParseAddrPort(client)
	if err != nil {
		return badQuestion("%q is not the client's ADDRESS:PORT", client)
	}
	dst := l.Bind
	if address, err := netip.ParseAddr(u.Hostname()); err == nil && dst.Addr().IsUnspecified() {
		dst = netip.AddrPortFrom(address.Unmap(), dst.Port())
	}
	e.packet(lb.Tuple{Protocol: lb.TCP, Src: netip.AddrPortFrom(src.Addr().Unmap(), src.Port()), Dst: dst})
	return nil
}

func request(u *url.URL, q admin.Question, l *lb.Listener) *l7.Request {
	r := &l7.Request{Method: q.Method, Scheme: u.Scheme, Host: u.Host, Target: u.RequestURI(), Listener: l.Name}
	if l.Normalize {
		r.Target = l7.Normal(r.Target)
	}
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	for _, name := range sortedKeys(q.Header) {
		r.Header.Add(name, q.Header[name])
	}
	return r
}

// route says of every route whether it matches, and why not.
func (e *explanation) route(r *l7.Request) *lb.Route {
	var found *lb.Route
	for i, route := range e.s.Config.Routes {
		v := admin.RouteVerdict{Index: i + 1, Line: route.Line, Match: matchText(route.Match)}
		if found != nil {
			v.Why = "not asked: an earlier route matches"
			e.out.Routes = append(e.out.Routes, v)
			continue
		}
		what, err := l7.Mismatch(&route.Match, r)
		switch {
		case err != nil:
			v.Why = err.Error()
		case what != "":
			v.Why = mismatch(what, r)
		default:
			v.Matches, v.Why = true, "the first that matches"
			found, e.out.Route = route, i+1
		}
		e.out.Routes = append(e.out.Routes, v)
	}
	return found
}

func mismatch(what string, r *l7.Request) string {
	switch what {
	case "listener":
		return "the listener is " + r.Listener
	case "host":
		return "the host is " + r.Host
	case "path":
		return "the path is " + r.Path()
	case "method":
		return "the method is " + r.Method
	}
	return "a " + what + " differs"
}

// target says where a route leads.
func (e *explanation) target(r *lb.Route) {
	e.out.Filters, e.out.Target = filterNames(r), targetText(r)
	at := fmt.Sprintf("route %d (line %d)", e.out.Route, r.Line)
	switch {
	case r.Redirect != nil || r.Respond != nil:
		e.out.Verdict = fmt.Sprintf("%s answers itself: %s", at, e.out.Target)
		return
	case len(r.Split) > 0:
		for _, w := range r.Split {
			e.pool(w.Pool)
		}
	default:
		e.out.Pool = r.Pool
		e.out.Balance = e.pool(r.Pool)
	}
	e.out.Verdict = at + ": " + e.backendVerdict()
}

// pool says of each backend whether it may be picked, and why not.
func (e *explanation) pool(name string) (balance string) {
	p := e.s.Config.Pool(name)
	if p == nil {
		return ""
	}
	all := backendsIn(name, e.s, e.node.Stats(), e.node.Reports())
	around := surroundingsOf(all, p)
	for _, b := range all {
		e.out.Backends = append(e.out.Backends, choice(b, around))
	}
	return p.Balance
}

// surroundings are what a backend's place in the choice depends on besides itself.
type surroundings struct {
	up      int  // usable backends that are no backups
	backups int  // usable ones that are
	few     bool // so few are up that the pool is in panic
}

func surroundingsOf(backends []admin.Backend, p *lb.Pool) (s surroundings) {
	all := 0
	for _, b := range backends {
		switch {
		case b.Backup && usable(b):
			s.backups++
		case !b.Backup && usable(b):
			s.up++
		}
		if !b.Backup && !b.Drain && !b.Disable && b.Weight > 0 {
			all++
		}
	}
	s.few = float64(s.up) < float64(p.Panic)*float64(all)
	return s
}

func choice(b admin.Backend, s surroundings) admin.BackendChoice {
	c := admin.BackendChoice{ID: b.ID, Weight: b.Weight}
	ignored := s.few && s.backups == 0 && !b.Backup && !b.Drain && !b.Disable && b.Weight > 0
	switch {
	case ignored && !usable(b):
		c.Eligible, c.Why = true, b.State+", but so few are up that health is ignored"
	case b.Disable:
		c.Why = "disabled by an operator"
	case b.Drain:
		c.Why = fmt.Sprintf("drained by an operator, %d in progress", b.Active)
	case b.Health == lb.Down.String():
		c.Why = strings.TrimSuffix("down: "+b.Check, ": ")
	case b.Ejected != nil:
		c.Why = fmt.Sprintf("ejected until %s (%s)", b.Ejected.Until.Format(time.RFC3339), b.Ejected.Reason)
	case b.Weight == 0:
		c.Why = "its weight is 0"
	case b.Backup && s.up > 0 && !s.few:
		c.Why = "a backup, and others are up"
	default:
		c.Eligible, c.Why = true, b.Health
	}
	return c
}

func (e *explanation) backendVerdict() string {
	n := 0
	for _, b := range e.out.Backends {
		if b.Eligible {
			n++
		}
	}
	switch {
	case n == 0:
		return fmt.Sprintf("%s, answered with 503 (%s)", e.out.Target, lb.NoHealthyBackend)
	case e.out.Balance == "":
		return fmt.Sprintf("%s, one of %s", e.out.Target, plural(n, "backend"))
	}
	return fmt.Sprintf("%s, %s over %s", e.out.Target, e.out.Balance, plural(n, "backend"))
}
