package l7

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// secureOrigin is a scripted backend behind TLS.
func secureOrigin(t testing.TB, config *tls.Config, script func(p *peer, c *tls.Conn)) *origin {
	return startOrigin(t, func(p *peer) {
		c := tls.Server(p.Conn, config)
		p.SetDeadline(time.Now().Add(patience))
		if c.Handshake() == nil {
			script(&peer{t: t, Conn: c, r: bufio.NewReader(c), number: p.number}, c)
		}
	})
}

// toSecure is pool with tls to the backends.
func toSecure(tlsKeys, protocol string, backends ...string) string {
	return strings.Replace(pool(backends...), "app: {", "app: { protocol: "+protocol+", tls: {"+tlsKeys+"},", 1)
}

func TestTLSToBackends(t *testing.T) {
	a, clients, strangers := newAuthority("ca"), newAuthority("clients"), newAuthority("strangers")
	var mu sync.Mutex
	var names []string
	config := &tls.Config{Certificates: []tls.Certificate{a.pair("o", "origin.example", "127.0.0.1")}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: clients.Pool(), NextProtos: []string{"http/1.1"}}
	o := secureOrigin(t, config, func(p *peer, c *tls.Conn) {
		s := c.ConnectionState()
		name := s.ServerName
		if len(s.PeerCertificates) > 0 {
			name += " from " + s.PeerCertificates[0].Subject.CommonName
		}
		mu.Lock()
		names = append(names, name)
		mu.Unlock()
		answering(ok)(p)
	})
	files := map[string][]byte{"ca.pem": a.PEM(), "strangers.pem": strangers.PEM(), lb.SystemCAs: a.PEM()}
	files["c.pem"], files["c.key"] = clients.issue("lb")
	for _, c := range []struct{ name, tls, status, seen string }{
		{"by address", " ca: ca.pem ", "200", ""},
		{"by name", " ca: ca.pem, server_name: origin.example ", "200", "origin.example"},
		{"with a certificate", " ca: ca.pem, cert: c.pem, key: c.key, server_name: origin.example ", "200", "origin.example from lb"},
		{"another name", " ca: ca.pem, server_name: other.example ", "502", ""},
		{"another CA", " ca: strangers.pem ", "502", ""},
		{"the system's CAs", " ", "200", ""},
		{"unverified", " insecure: true ", "200", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			names = nil
			l := startLab(t, labOptions{files: files}, toSecure(c.tls, "http1", o.addr))
			p := l.dial()
			for range 3 {
				if got := p.get("/"); !strings.Contains(got.status, c.status) {
					t.Fatalf("got %q %q", got.status, got.body)
				}
			}
			if c.status == "200" && (len(names) != 1 || names[0] != c.seen) {
				t.Errorf("the backend saw %q, want %q once", names, c.seen)
			}
		})
	}
}

func TestTLSToBackendsWantsTheirProtocol(t *testing.T) {
	a := newAuthority("ca")
	o := secureOrigin(t, &tls.Config{Certificates: []tls.Certificate{a.pair("o", "127.0.0.1")}}, func(p *peer, _ *tls.Conn) { answering(ok)(p) })
	l := startLab(t, labOptions{files: map[string][]byte{"ca.pem": a.PEM()}}, toSecure(" ca: ca.pem ", "http2", o.addr))
	if got := l.dial().get("/"); !strings.Contains(got.status, "502") {
		t.Errorf("got %q", got.status)
	}
}

func TestTLSToHTTP2Backends(t *testing.T) {
	a := newAuthority("ca")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{a.pair("o", "127.0.0.1")}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto); io.Copy(w, r.Body) })}
	var serving sync.WaitGroup
	serving.Go(func() { s.ServeTLS(ln, "", "") })
	t.Cleanup(func() { s.Close(); serving.Wait() })
	l := startLab(t, labOptions{files: map[string][]byte{"ca.pem": a.PEM()}}, toSecure(" ca: ca.pem ", "http2", ln.Addr().String()))
	p := l.dial()
	for range 3 {
		p.get("/").want(t, "200", "HTTP/2.0")
	}
	body := strings.Repeat("x", 3<<20)
	p.say(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(body)))
	var writing sync.WaitGroup
	writing.Go(func() { p.say(body) })
	p.response().want(t, "200", "HTTP/2.0"+body)
	writing.Wait()
}

func TestTLSTruncatedResponsesNeverLookComplete(t *testing.T) {
	a := newAuthority("ca")
	for _, c := range []struct {
		name   string
		notify bool
	}{{"close_notify", true}, {"a mere FIN", false}} {
		t.Run(c.name, func(t *testing.T) {
			o := secureOrigin(t, &tls.Config{Certificates: []tls.Certificate{a.pair("o", "127.0.0.1")}}, func(p *peer, conn *tls.Conn) {
				p.request()
				p.say("HTTP/1.1 200 OK\r\n\r\nhalf a bo")
				if c.notify {
					conn.CloseWrite()
				} else {
					conn.NetConn().(*net.TCPConn).CloseWrite()
				}
				p.rest()
			})
			l := startLab(t, labOptions{files: map[string][]byte{"ca.pem": a.PEM()}}, toSecure(" ca: ca.pem ", "http1", o.addr))
			r := l.dial().get("/")
			if whole := r.body == "half a bo"; whole != c.notify {
				t.Errorf("got %q, complete is %v", r.body, c.notify)
			}
		})
	}
}

// Sessions, tickets and steals: TLS backends keep their connections, although
// each brings a ticket while it is idle, whichever thread needs one.
func TestTLSBackendConnectionsAreReused(t *testing.T) {
	a := newAuthority("ca")
	o := secureOrigin(t, &tls.Config{Certificates: []tls.Certificate{a.pair("o", "127.0.0.1")}}, func(p *peer, _ *tls.Conn) { answering(ok)(p) })
	l := startSecure(t, a, labOptions{threads: 2, files: map[string][]byte{"ca.pem": a.PEM()}},
		strings.Replace(secured("", o.addr), "app: {", "app: { tls: { ca: ca.pem },", 1))
	config := &tls.Config{RootCAs: a.Pool(), ServerName: "a.example"}
	const clients = 4
	var running sync.WaitGroup
	for range clients {
		p, _ := l.dialTLS(config)
		running.Go(func() {
			for range 50 {
				p.get("/").want(t, "200", "ok")
			}
		})
	}
	running.Wait()
	if n := o.conns.Load(); n > 2*clients {
		t.Errorf("%d connections for %d clients", n, clients)
	}
}
