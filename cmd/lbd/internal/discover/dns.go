package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/miekg/dns"
)

// How DNS is asked. The standard library's resolver tells no TTL.
const (
	resolvConf = "/etc/resolv.conf"
	tryTime    = 2 * time.Second
	tries      = 2    // of each server
	udpSize    = 1232 // what fits through any network without fragments
)

// resolver asks DNS servers, one after the other, until one knows.
type resolver struct {
	servers []string
	search  func(name string) []string // the full names that a name may mean
}

// newResolver reads /etc/resolv.conf unless servers are given: each time anew,
// for it changes while we run.
func newResolver(servers []netip.AddrPort) (*resolver, error) {
	if len(servers) > 0 {
		r := &resolver{search: func(name string) []string { return []string{dns.Fqdn(name)} }}
		for _, s := range servers {
			r.servers = append(r.servers, s.String())
		}
		return r, nil
	}
	c, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil {
		return nil, err
	}
	r := &resolver{search: c.NameList}
	for _, s := range c.Servers {
		r.servers = append(r.servers, net.JoinHostPort(s, c.Port))
	}
	if len(r.servers) == 0 {
		return nil, fmt.Errorf("%s names no server", resolvConf)
	}
	return r, nil
}

// reply is what DNS says of a name: records of the type asked for, for how long
// they are good, and what came along.
type reply struct {
	records []dns.RR
	good    time.Duration
	extra   []dns.RR
}

// ask asks for one type of a name's records: those of the first full name that
// has some.
func (r *resolver) ask(ctx context.Context, name string, kind uint16) (reply, error) {
	var missing error
	for _, full := range r.search(name) {
		found, err := r.lookup(ctx, full, kind)
		if err == nil || !isMissing(err) {
			return found, err
		}
		missing = cmp.Or(missing, err)
	}
	return reply{}, cmp.Or(missing, errNoName)
}

// errNoName is a name that does not exist.
var errNoName = errors.New("there is no such name (NXDOMAIN)")

// isMissing reports whether DNS said that there is nothing, as against not
// saying anything.
func isMissing(err error) bool { return errors.Is(err, errNoName) || errors.Is(err, errNothing) }

// lookup asks all servers for one full name.
func (r *resolver) lookup(ctx context.Context, full string, kind uint16) (reply, error) {
	var last error
	for range tries {
		for _, server := range r.servers {
			m, err := exchange(ctx, server, full, kind)
			switch {
			case ctx.Err() != nil:
				return reply{}, cmp.Or(err, ctx.Err())
			case err != nil:
				last = fmt.Errorf("ask %s: %w", server, err)
			case m.Rcode == dns.RcodeNameError:
				return reply{}, errNoName
			case m.Rcode != dns.RcodeSuccess:
				last = fmt.Errorf("ask %s: it answers %s", server, dns.RcodeToString[m.Rcode])
			default:
				return read(m, kind)
			}
		}
	}
	return reply{}, last
}

// read takes the records of a type out of a message, aliases followed by who
// answered; they are good for as long as the shortest TTL on the way.
func read(m *dns.Msg, kind uint16) (reply, error) {
	found := reply{good: latest, extra: m.Extra}
	for _, rr := range m.Answer {
		h := rr.Header()
		if h.Rrtype == kind || h.Rrtype == dns.TypeCNAME {
			found.good = min(found.good, ttl(rr))
		}
		if h.Rrtype == kind {
			found.records = append(found.records, rr)
		}
	}
	if found.records == nil {
		return reply{}, errNothing
	}
	return found, nil
}

// ttl is a record's, and never none: a source is not asked without end.
func ttl(rr dns.RR) time.Duration {
	return max(time.Duration(rr.Header().Ttl)*time.Second, time.Second)
}

// exchange asks one server: by UDP, and by TCP when the answer does not fit; a
// server that knows no EDNS is asked without.
func exchange(ctx context.Context, server, full string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg).SetQuestion(full, kind)
	question.SetEdns0(udpSize, false)
	reply, err := send(ctx, "udp", server, question)
	if err == nil && reply.Rcode == dns.RcodeFormatError {
		question.Extra = nil
		reply, err = send(ctx, "udp", server, question)
	}
	if err == nil && reply.Truncated {
		reply, err = send(ctx, "tcp", server, question)
	}
	return reply, err
}

func send(ctx context.Context, network, server string, question *dns.Msg) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: tryTime, UDPSize: udpSize}
	reply, _, err := c.ExchangeContext(ctx, question, server)
	if err != nil {
		return nil, err
	}
	if len(reply.Question) > 0 && !sameQuestion(reply.Question[0], question.Question[0]) {
		return nil, errors.New("it answers another question")
	}
	return reply, nil
}

func sameQuestion(a, b dns.Question) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// families are the records that hold addresses.
var families = [...]uint16{dns.TypeA, dns.TypeAAAA}

// host looks up the addresses of a name.
type host struct {
	name string
	last [len(families)][]netip.Addr // the last good answers
}

// find gives the addresses and for how long they are good. A family that
// cannot be asked while the other answers keeps what it had: half a failure
// takes no backend away.
func (h *host) find(ctx context.Context, r *resolver) ([]netip.Addr, time.Duration, error) {
	var all []netip.Addr
	var failed, missing error
	good, answered := latest, false
	for i, kind := range families {
		found, err := r.ask(ctx, h.name, kind)
		switch {
		case err == nil:
			h.last[i] = addresses(found.records)
			good, answered = min(good, found.good), true
		case isMissing(err):
			h.last[i], missing = nil, err
		default:
			good, failed = min(good, backOffTo), err
		}
		all = append(all, h.last[i]...)
	}
	if !answered {
		return nil, 0, cmp.Or(failed, missing)
	}
	return all, good, nil
}

func addresses(records []dns.RR) []netip.Addr {
	var all []netip.Addr
	for _, rr := range records {
		if a, ok := address(rr); ok {
			all = append(all, a)
		}
	}
	return all
}

// address is that of an A or AAAA record, if one can connect to it.
func address(rr dns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch rr := rr.(type) {
	case *dns.A:
		ip = rr.A
	case *dns.AAAA:
		ip = rr.AAAA
	}
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok && !a.IsUnspecified() && !a.IsMulticast()
}

// hosts is a source of the addresses of one name.
type hosts struct {
	host    host
	port    uint16
	servers []netip.AddrPort
}

func newHosts(d lb.Discovery) *hosts {
	name, port, _ := net.SplitHostPort(d.DNS) // validated
	n, _ := strconv.ParseUint(port, 10, 16)
	return &hosts{host: host{name: name}, port: uint16(n), servers: d.Servers}
}

// Find asks for A and AAAA records.
func (h *hosts) Find(ctx context.Context) (Answer, error) {
	r, err := newResolver(h.servers)
	if err != nil {
		return Answer{}, err
	}
	all, good, err := h.host.find(ctx, r)
	if err == nil && len(all) == 0 {
		err = errNothing // none that one can connect to
	}
	if err != nil {
		return Answer{}, fmt.Errorf("look up %s: %w", h.host.name, err)
	}
	out := Answer{Good: good}
	for _, a := range all {
		out.Backends = append(out.Backends, lb.Backend{Address: netip.AddrPortFrom(a, h.port).String(), Weight: 1})
	}
	return out, nil
}
