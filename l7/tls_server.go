package l7

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// serverTLS is the TLS of a listener, as it is built into a snapshot.
type serverTLS struct {
	config *tls.Config
	base   *tls.Config // holds the ticket keys, and asks for config
	names  certificateNames
}

// certificateNames finds a certificate by the name a client asks for. A name
// may have several, of different kinds of keys.
type certificateNames struct {
	exact    map[string][]*tls.Certificate
	wildcard map[string][]*tls.Certificate // by what follows the first label, dot included
	first    *tls.Certificate              // of the list, for everybody else
}

// buildServerTLS builds what an https listener needs.
func (p *Proxy) buildServerTLS(c *lb.ServerTLS, r *secretReader) (*serverTLS, error) {
	s := &serverTLS{names: certificateNames{exact: map[string][]*tls.Certificate{}, wildcard: map[string][]*tls.Certificate{}}}
	for _, f := range c.Certificates {
		certificate, err := r.pair(f)
		if err != nil {
			return nil, err
		}
		s.names.add(certificate)
	}
	s.config = &tls.Config{
		GetCertificate:              s.names.choose,
		NextProtos:                  []string{"h2", "http/1.1"},
		MinVersion:                  tls.VersionTLS12,
		DynamicRecordSizingDisabled: true, // what is written together is sealed together
	}
	if c.MinVersion == "1.3" {
		s.config.MinVersion = tls.VersionTLS13
	}
	if c.ClientCA != "" {
		pool, err := r.pool(c.ClientCA)
		if err != nil {
			return nil, err
		}
		s.config.ClientCAs, s.config.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	s.base = p.tickets.base(sha256.Sum256(r.files[c.ClientCA]))
	return s, nil
}

// add enters a certificate under each of its names.
func (n *certificateNames) add(p *namedPair) {
	c := &p.Certificate
	if n.first == nil {
		n.first = c
	}
	for _, name := range p.names {
		if suffix, wild := strings.CutPrefix(name, "*"); wild {
			n.wildcard[suffix] = another(n.wildcard[suffix], c)
		} else {
			n.exact[name] = another(n.exact[name], c)
		}
	}
}

// another appends to the certificates of a name. Of several crypto/tls looks at
// the leaves, and would parse them in every handshake.
func another(list []*tls.Certificate, c *tls.Certificate) []*tls.Certificate {
	if len(list) == 1 {
		list[0] = withLeaf(list[0])
	}
	if len(list) > 0 {
		c = withLeaf(c)
	}
	return append(list, c)
}

// choose is crypto/tls's: exact, else wildcard, else the first of the list.
func (n *certificateNames) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	found := n.exact[name]
	if found == nil {
		if dot := strings.IndexByte(name, '.'); dot > 0 {
			found = n.wildcard[name[dot:]]
		}
	}
	switch len(found) {
	case 0:
		return n.first, nil
	case 1:
		return found[0], nil // crypto/tls says what does not fit
	}
	for _, c := range found {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return found[0], nil
}

// tickets are the keys of session tickets. The zero value is ready.
type tickets struct {
	mu    sync.Mutex // guards what follows
	keys  [][32]byte // none: each base makes its own and changes them daily
	bases map[[32]byte]*tls.Config
}

// SetTicketKeys makes session tickets with the first key, and accepts those of
// all. Without, a proxy makes its own keys and changes them daily. Sessions are
// kept apart by client CA all the same.
func (p *Proxy) SetTicketKeys(keys [][32]byte) error {
	if len(keys) == 0 {
		return errors.New("set ticket keys: there must be one")
	}
	p.tickets.mu.Lock()
	defer p.tickets.mu.Unlock()
	p.tickets.keys = keys
	for domain, base := range p.tickets.bases {
		base.SetSessionTicketKeys(derived(keys, domain))
	}
	return nil
}

// maxTicketDomains bounds the configurations of client CAs that are no more;
// beyond it all clients shake hands in full once.
const maxTicketDomains = 1024

// base is the configuration that holds the ticket keys for a client CA. It
// outlives reloads.
func (t *tickets) base(domain [32]byte) *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.bases[domain]; b != nil {
		return b
	}
	if t.bases == nil || len(t.bases) >= maxTicketDomains {
		t.bases = map[[32]byte]*tls.Config{}
	}
	b := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		return h.Conn.(*wire).server.config, nil
	}}
	if len(t.keys) > 0 {
		b.SetSessionTicketKeys(derived(t.keys, domain))
	}
	t.bases[domain] = b
	return b
}

// derived are the keys of one client CA.
func derived(keys [][32]byte, domain [32]byte) [][32]byte {
	out := make([][32]byte, len(keys))
	for i, key := range keys {
		k, err := hkdf.Key(sha256.New, key[:], domain[:], "cirque session tickets", 32)
		if err != nil {
			panic("l7: derive a ticket key: " + err.Error()) // lengths are fixed
		}
		out[i] = [32]byte(k)
	}
	return out
}

// shakeTLS is a client's connection until its handshake ends.
type shakeTLS struct {
	raw    loop.Conn
	t      *tlsConn
	thread *thread
	client *client
	timer  loop.Timer
	place  int // in thread.clients
	over   bool
}

// serveTLS makes an HTTP/1 or HTTP/2 connection of a socket, by what the
// handshake agrees on.
func (t *thread) serveTLS(fd int, client *client, l *listener) {
	s := &shakeTLS{thread: t, client: client}
	if err := s.raw.Init(t.loop, fd, nil); err != nil {
		client.gone()
		return
	}
	s.t = t.startTLS(&s.raw, func(w *wire) *tls.Conn {
		w.server = l.secure
		return tls.Server(w, l.secure.base)
	}, s.shaken)
	t.clients.add(s)
	t.loop.Set(&s.timer, t.proxy.times.handshake, s)
}

// shaken is told of the handshake's end.
func (s *shakeTLS) shaken(err error) {
	if err != nil {
		s.refuse(err)
		return
	}
	s.leave()
	s.client.security = s.t.security()
	if s.client.security.ALPN == "h2" {
		s.thread.serveH2(s.t, s.client, nil)
		return
	}
	s.thread.serveH1Over(s.t, s.client)
}

// refuse ends a handshake that failed; the alert went into the socket.
func (s *shakeTLS) refuse(err error) {
	s.leave()
	s.thread.tally.event("lbd_tls_handshake_failures_total", "listener", s.client.listener, "reason", handshakeFailure(err))
	var header tls.RecordHeaderError
	if errors.As(err, &header) && header.Conn != nil && looksLikeHTTP(header.RecordHeader) {
		s.raw.Write([]byte("HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks HTTPS.\n"))
	}
	s.t.Finish()
	s.client.gone()
}

// handshakeFailure sorts the errors of handshakes into few kinds.
func handshakeFailure(err error) string {
	var certificate *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case errors.Is(err, errTruncated), errors.Is(err, unix.ECONNRESET):
		return "client_abort"
	case errors.Is(err, errBusy):
		return string(lb.Overload)
	case errors.As(err, &certificate):
		return "certificate"
	case errors.As(err, &alert) && alert.Op == "remote error":
		return "alert" // the client does not like us
	}
	return "protocol"
}

func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}

// leave takes the connection out of the books of those that shake hands.
func (s *shakeTLS) leave() {
	s.over = true
	s.thread.loop.Stop(&s.timer)
	s.thread.clients.remove(s)
}

// Expired: the handshake takes too long.
func (s *shakeTLS) Expired(*loop.Timer) {
	s.thread.tally.event("lbd_tls_handshake_failures_total", "listener", s.client.listener, "reason", string(lb.ClientTimeout))
	s.cut()
}

func (s *shakeTLS) drain() {} // its first response will say it

func (s *shakeTLS) from() netip.AddrPort { return s.client.peer }

func (s *shakeTLS) cut() {
	if !s.over {
		s.leave()
		s.t.Close()
		s.client.gone()
	}
}

func (s *shakeTLS) index() *int { return &s.place }

func (s *shakeTLS) whose() *client { return s.client }

var _ net.Conn = (*wire)(nil)
