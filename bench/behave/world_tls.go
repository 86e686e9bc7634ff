package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb/l7/certtest"
)

// worldTLS is what cases with TLS have: where the proxy speaks it, the
// certificates of everybody, and an origin behind TLS.
type worldTLS struct {
	secure  string // certificates for a.example (the first), b.example and *.b.example
	mutual  string // the same, and clients must show a certificate
	proxied string // in clear text, behind a balancer on the loopback that speaks the PROXY protocol
	pki     *pki
	origin  *originTLS // behind /tls/, verified as origin.example
}

// pki is authorities and certificates, in a directory for those that read files.
type pki struct {
	dir                  string
	servers, clients     *certtest.Authority
	good, expired, other tls.Certificate // of clients; other is of an authority nobody knows
}

// newPKI makes everybody's certificates.
func newPKI() (*pki, error) {
	dir, err := os.MkdirTemp("", "behave-pki-")
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir}
	return p, errors.Join(os.Chmod(dir, 0o755), p.fill())
}

func (p *pki) fill() error {
	const day = 24 * time.Hour
	p.servers, p.clients = certtest.New("servers"), certtest.New("clients")
	p.good, p.expired = p.clients.Issue(day, "me").TLS(), p.clients.Issue(-day, "me").TLS()
	p.other = certtest.New("strangers").Issue(day, "me").TLS()
	return errors.Join(
		p.servers.Issue(day, "a.example", "a.example").Write(p.dir, "a"),
		p.servers.Issue(day, "b.example", "b.example", "*.b.example").Write(p.dir, "b"),
		p.clients.Issue(day, "lb", "lb").Write(p.dir, "lb"),
		p.file("servers.pem", p.servers.PEM()), p.file("clients.pem", p.clients.PEM()))
}

func (p *pki) file(name string, text []byte) error {
	return os.WriteFile(filepath.Join(p.dir, name), text, 0o644)
}

func (p *pki) close() { os.RemoveAll(p.dir) }

// startTLS makes the certificates and the origin behind TLS.
func startTLS() (*worldTLS, error) {
	p, err := newPKI()
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	o, err := startOriginTLS(p)
	if err != nil {
		p.close()
		return nil, err
	}
	return &worldTLS{pki: p, origin: o}, nil
}

func (t *worldTLS) close() {
	t.origin.ln.Close()
	t.pki.close()
}

// pairs replace what a proxy's configuration says of TLS.
func (t *worldTLS) pairs() []string {
	port := func(addr string) string {
		_, p, _ := net.SplitHostPort(addr)
		return p
	}
	return []string{"{pki}", t.pki.dir, "{backendtls}", t.origin.ln.Addr().String(),
		"{secure}", port(t.secure), "{mutual}", port(t.mutual), "{proxied}", port(t.proxied)}
}

// originTLS is a backend whose handshakes are scripted, too.
type originTLS struct {
	ln   net.Listener
	pki  *pki
	mu   sync.Mutex // guards what follows
	do   func(net.Conn)
	open map[net.Conn]bool
	made int
}

func startOriginTLS(p *pki) (*originTLS, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &originTLS{ln: ln, pki: p, open: map[net.Conn]bool{}}
	go o.runAccept()
	return o, nil
}

// runAccept ends when the listener is closed.
func (o *originTLS) runAccept() {
	for {
		c, err := o.ln.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.made++
		o.open[c] = true
		do := o.do
		o.mu.Unlock()
		go func() {
			c.SetDeadline(time.Now().Add(2 * patience))
			do(c)
			c.Close()
			o.mu.Lock()
			delete(o.open, c)
			o.mu.Unlock()
		}()
	}
}

// follow makes the origin do something else with the connections to come; those
// there are end.
func (o *originTLS) follow(do func(net.Conn)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.open {
		c.Close()
	}
	o.do, o.made = do, 0
}

func (o *originTLS) connections() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.made
}

// shown is a server's part of a handshake with a certificate of this kind.
func (o *originTLS) shown(by *certtest.Authority, good time.Duration, name string) func(net.Conn) {
	return func(raw net.Conn) {
		cert := by.Issue(good, name, name).TLS()
		answer(tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}}))
	}
}

// proper is a server that does all as it should, and then speaks.
func (o *originTLS) proper(speak func(*tls.Conn), change ...func(*tls.Config)) func(net.Conn) {
	return func(raw net.Conn) {
		cert := o.pki.servers.Issue(time.Hour, "origin", "origin.example").TLS()
		config := &tls.Config{Certificates: []tls.Certificate{cert}}
		for _, f := range change {
			f(config)
		}
		speak(tls.Server(raw, config))
	}
}

// answer says 200 to each request, with the name of the client's certificate.
func answer(c *tls.Conn) {
	in := &conn{Conn: c, r: bufio.NewReader(c)}
	for {
		if m := in.request(); !m.whole {
			return
		}
		name := "nobody"
		if peers := c.ConnectionState().PeerCertificates; len(peers) > 0 {
			name = peers[0].Subject.CommonName
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name)
	}
}

// config is a client that believes the servers' authority and asks for a name.
func (t *worldTLS) config(name string) *tls.Config {
	return &tls.Config{RootCAs: t.pki.servers.Pool(), ServerName: name}
}

// dialTLS shakes hands with the proxy. The outcome says why it came to nothing.
func dialTLS(addr string, config *tls.Config) (*conn, *tls.Conn, string) {
	raw, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, nil, "cannot connect: " + err.Error()
	}
	raw.SetDeadline(time.Now().Add(patience))
	c := tls.Client(raw, config)
	if err := c.Handshake(); err != nil {
		raw.Close()
		return nil, nil, failed(err)
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 1<<20)}, c, ""
}

// failed says how a connection came to its end.
func failed(err error) string {
	text := err.Error()
	if at := strings.Index(text, "remote error: tls: "); at >= 0 {
		return "alert " + text[at+len("remote error: tls: "):]
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "reset"):
		return "close"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	return text
}

// getTLS asks once, and says the status and what show makes of the connection.
func getTLS(addr string, config *tls.Config, show func(*tls.Conn) string) string {
	c, t, why := dialTLS(addr, config)
	if why != "" {
		return why
	}
	defer c.Close()
	c.say("GET /x HTTP/1.1\r\nHost: " + config.ServerName + "\r\n\r\n")
	if _, err := c.r.Peek(1); err != nil {
		return failed(err) // TLS 1.3 tells a client of its certificate here
	}
	m := c.response("GET")
	out := m.said()
	if show != nil {
		out += " " + show(t)
	}
	return out
}
