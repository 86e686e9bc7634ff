package l7

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/certtest"
	"github.com/cirque-lb/lb/l7/loop"
)

// authority signs certificates that are good for an hour.
type authority struct{ *certtest.Authority }

func newAuthority(name string) authority { return authority{certtest.New(name)} }

// issue makes a certificate for names and addresses; PEM of both halves.
func (a authority) issue(subject string, names ...string) (cert, key []byte) {
	p := a.Issue(time.Hour, subject, names...)
	return p.Cert, p.Key
}

func (a authority) pair(subject string, names ...string) tls.Certificate {
	return a.Issue(time.Hour, subject, names...).TLS()
}

// secured is pool behind an https listener; more is put into its tls.
func secured(more string, backends ...string) string {
	return strings.Replace(pool(backends...), `bind: "127.0.0.1:1"`,
		`bind: "127.0.0.1:1", protocol: https, tls: { certificates: [{ cert: a.pem, key: a.key }]`+more+` }`, 1)
}

// startSecure runs a proxy with a certificate for a.example.
func startSecure(t testing.TB, a authority, o labOptions, document string) *lab {
	if o.files == nil {
		o.files = map[string][]byte{}
	}
	if o.files["a.pem"] == nil {
		o.files["a.pem"], o.files["a.key"] = a.issue("a", "a.example")
	}
	return startLab(t, o, document)
}

// dialTLS shakes hands with the proxy.
func (l *lab) dialTLS(config *tls.Config) (*peer, *tls.Conn) {
	l.t.Helper()
	raw, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { raw.Close() })
	c := tls.Client(raw, config)
	raw.SetDeadline(time.Now().Add(patience))
	if err := c.Handshake(); err != nil {
		l.t.Fatal(err)
	}
	return &peer{t: l.t, Conn: c, r: bufio.NewReader(c)}, c
}

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func TestTLSServesHTTP1AndHTTP2(t *testing.T) {
	a := newAuthority("ca")
	o := startOrigin(t, answering(ok))
	l := startSecure(t, a, labOptions{threads: 2}, secured("", o.addr))
	for name, version := range versions {
		for _, proto := range []string{"", "http/1.1", "h2"} {
			t.Run(name+" "+proto, func(t *testing.T) {
				config := &tls.Config{RootCAs: a.Pool(), ServerName: "a.example", MinVersion: version, MaxVersion: version}
				if proto != "" {
					config.NextProtos = []string{proto}
				}
				if proto == "h2" {
					tr := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true,
						DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { return net.Dial(network, l.addr) }}
					defer tr.CloseIdleConnections()
					for range 3 {
						wantGet(t, tr, "HTTP/2.0")
					}
					return
				}
				p, c := l.dialTLS(config)
				for range 3 {
					p.get("/").want(t, "200", "ok")
				}
				if got := c.ConnectionState().NegotiatedProtocol; got != proto {
					t.Errorf("protocol: got %q, want %q", got, proto)
				}
			})
		}
	}
}

func wantGet(t *testing.T, tr *http.Transport, proto string) {
	t.Helper()
	res, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://a.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.Proto != proto || res.StatusCode != 200 || string(body) != "ok" || err != nil {
		t.Errorf("got %s %d %q %v", res.Proto, res.StatusCode, body, err)
	}
}

// dripping hands what a client writes to the connection's loop in pieces, as if
// the network had cut it so.
type dripping struct {
	net.Conn
	loop  *loop.Loop
	to    loop.User
	piece int
}

func (d *dripping) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i += d.piece {
		part := append([]byte(nil), p[i:min(len(p), i+d.piece)]...)
		d.loop.Post(func() { d.to.Received(part) })
	}
	return len(p), nil
}

// echoTLS is a user that says everything back, and pauses now and then.
type echoTLS struct {
	c     *tlsConn
	n     int
	loop  *loop.Loop
	ended chan error
}

func (e *echoTLS) Received(p []byte) {
	e.c.Write(p)
	if e.n++; e.n%3 == 0 {
		e.c.Pause()
		e.loop.Post(e.c.Resume)
	}
}
func (e *echoTLS) Ended(err error) { e.ended <- err }
func (e *echoTLS) Drained()        {}

// startEcho makes a TLS server of one end of a socket pair; the client's bytes
// come in pieces.
func startEcho(t *testing.T, l *lab, piece int, config *tls.Config) (*tls.Conn, *echoTLS) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	th := l.proxy.threads[0]
	e := &echoTLS{loop: th.loop, ended: make(chan error, 4)}
	made := make(chan *tlsConn)
	th.loop.Post(func() {
		raw := new(loop.Conn)
		if err := raw.Init(th.loop, fds[0], nil); err != nil {
			panic(err)
		}
		secure := l.proxy.view.Load().listeners["web"].secure
		e.c = th.startTLS(raw, func(w *wire) *tls.Conn {
			w.server = secure
			return tls.Server(w, secure.base)
		}, func(err error) {
			if err != nil {
				e.ended <- err
			}
		})
		e.c.Use(e)
		made <- e.c
	})
	c := <-made
	conn := fileConn(t, fds[1])
	t.Cleanup(func() { conn.Close(); th.loop.Post(c.Close) })
	conn.SetDeadline(time.Now().Add(patience))
	return tls.Client(&dripping{conn, th.loop, c, piece}, config), e
}

func fileConn(t *testing.T, fd int) net.Conn {
	f := os.NewFile(uintptr(fd), "pair")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestTLSReadsRecordsInPieces(t *testing.T) {
	a := newAuthority("ca")
	l := startSecure(t, a, labOptions{}, secured("", "127.0.0.1:9"))
	for name, version := range versions {
		for _, piece := range []int{1, 2, 3, 4, 5, 6, 7, 1000, 1 << 20} {
			t.Run(fmt.Sprint(name, " ", piece), func(t *testing.T) {
				c, _ := startEcho(t, l, piece, &tls.Config{RootCAs: a.Pool(), ServerName: "a.example", MinVersion: version, MaxVersion: version})
				sizes := []int{1, 100, 1 << 10}
				if piece >= 1000 {
					sizes = append(sizes, 16<<10, 1<<20)
				}
				for _, size := range sizes {
					sent := make([]byte, size)
					rand.Read(sent)
					var writing sync.WaitGroup
					writing.Go(func() { c.Write(sent) })
					got := make([]byte, size)
					if _, err := io.ReadFull(c, got); err != nil || string(got) != string(sent) {
						t.Errorf("%d bytes: came back differently, %v", size, err)
					}
					writing.Wait()
				}
			})
		}
	}
}

func TestTLSTellsTruncationFromTheEnd(t *testing.T) {
	a := newAuthority("ca")
	l := startSecure(t, a, labOptions{}, secured("", "127.0.0.1:9"))
	for _, c := range []struct {
		name   string
		notify bool
		want   error
	}{{"close_notify", true, io.EOF}, {"a mere FIN", false, errTruncated}} {
		t.Run(c.name, func(t *testing.T) {
			conn, e := startEcho(t, l, 5, &tls.Config{RootCAs: a.Pool(), ServerName: "a.example"})
			conn.Write([]byte("hello"))
			io.ReadFull(conn, make([]byte, 5))
			if c.notify {
				conn.CloseWrite()
			}
			e.loop.Post(func() { e.c.Ended(io.EOF) })
			if got := <-e.ended; got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestTLSChoosesCertificatesByName(t *testing.T) {
	a := newAuthority("ca")
	files := map[string][]byte{}
	for name, names := range map[string][]string{"a": {"a.example"}, "b": {"b.example", "*.b.example"}, "c": {"www.b.example"}} {
		files[name+".pem"], files[name+".key"] = a.issue(name, names...)
	}
	document := strings.Replace(secured("", "127.0.0.1:9"), "key: a.key }", "key: a.key }, { cert: b.pem, key: b.key }, { cert: c.pem, key: c.key }", 1)
	l := startSecure(t, a, labOptions{files: files}, document)
	for name, want := range map[string]string{
		"a.example": "a", "A.Example": "a", "b.example": "b", "x.b.example": "b", "www.b.example": "c", "x.y.b.example": "a", "other": "a", "": "a",
	} {
		_, c := l.dialTLS(&tls.Config{InsecureSkipVerify: true, ServerName: name})
		if got := c.ConnectionState().PeerCertificates[0].Subject.CommonName; got != want {
			t.Errorf("%q: got certificate %s, want %s", name, got, want)
		}
	}
}

func TestTLSDemandsClientCertificates(t *testing.T) {
	a, clients, strangers := newAuthority("ca"), newAuthority("clients"), newAuthority("strangers")
	seen := make(chan string, 8)
	look := Filter{Request: func(s *Session) (*Response, error) { seen <- s.Request.Certificate; return nil, nil }}
	o := startOrigin(t, answering(ok))
	document := strings.Replace(secured(", client_ca: ca.pem", o.addr), "pool: app", "filters: [look], pool: app", 1)
	l := startSecure(t, a, labOptions{files: map[string][]byte{"ca.pem": clients.PEM()}, filters: map[string]Filter{"look": look}}, document)
	base := &tls.Config{RootCAs: a.Pool(), ServerName: "a.example"}

	good := base.Clone()
	good.Certificates = []tls.Certificate{clients.pair("me")}
	p, _ := l.dialTLS(good)
	p.get("/").want(t, "200", "ok")
	if got := <-seen; got != "CN=me" {
		t.Errorf("certificate: got %q", got)
	}
	bad := base.Clone()
	bad.Certificates = []tls.Certificate{strangers.pair("me")}
	for name, config := range map[string]*tls.Config{"none": base, "a stranger's": bad} {
		raw, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(raw, config)
		c.SetDeadline(time.Now().Add(patience))
		c.Handshake() // TLS 1.3 tells it with the first read
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v, want an alert", name, err)
		}
		raw.Close()
	}
}

func TestTLSRefusesOldVersionsAndPlainText(t *testing.T) {
	a := newAuthority("ca")
	l := startSecure(t, a, labOptions{}, secured(`, min_version: "1.3"`, "127.0.0.1:9"))
	raw, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	err = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: got %v", err)
	}
	p := l.dial().say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := p.rest(); !strings.HasPrefix(got, "HTTP/1.0 400") {
		t.Errorf("plain text: got %q", got)
	}
	l.dial().say("\x16\x03\x01\x00\x05hello").refused(t)
}

// refused wants an alert, perhaps, and the connection's end.
func (p *peer) refused(t testing.TB) {
	t.Helper()
	if got := p.rest(); len(got) > 32 {
		t.Errorf("got %q", got)
	}
}

func TestTLSHandshakesEndInTime(t *testing.T) {
	a := newAuthority("ca")
	l := startSecure(t, a, labOptions{}, secured("", "127.0.0.1:9"))
	quick := usualTimes
	quick.handshake = 50 * time.Millisecond
	l.hurry(quick)
	l.dial().ended(t)
	l.dial().say("\x16\x03\x01\x02\x00").ended(t)
	p := l.dial() // gone before it began
	p.Close()
	l.settled()
}

// settled waits until no client is left.
func (l *lab) settled() {
	l.t.Helper()
	for deadline := time.Now().Add(patience); l.proxy.connections.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("%d connections are left", l.proxy.connections.Load())
		}
	}
}

func TestTLSSessionsOutliveReloadsAndProxies(t *testing.T) {
	a := newAuthority("ca")
	o := startOrigin(t, answering(ok))
	files := map[string][]byte{"ca.pem": a.PEM()}
	one := startSecure(t, a, labOptions{files: files}, secured("", o.addr))
	two := startSecure(t, a, labOptions{files: files}, secured("", o.addr))
	config := &tls.Config{RootCAs: a.Pool(), ServerName: "a.example", ClientSessionCache: tls.NewLRUClientSessionCache(8), Certificates: []tls.Certificate{a.pair("me")}}
	resumes := func(l *lab) bool {
		p, c := l.dialTLS(config)
		p.get("/").want(t, "200", "ok")
		return c.ConnectionState().DidResume
	}
	wants := func(what string, l *lab, want bool) {
		t.Helper()
		if got := resumes(l); got != want {
			t.Errorf("%s: resumed %v, want %v", what, got, want)
		}
	}
	wants("the first", one, false)
	wants("the second", one, true)
	one.configure(secured("", o.addr))
	wants("after a reload", one, true)
	wants("at another proxy with keys of its own", two, false)
	keys := [][32]byte{{1}, {2}}
	one.proxy.SetTicketKeys(keys)
	two.proxy.SetTicketKeys(keys)
	wants("keys were changed", one, false)
	wants("at another proxy with the same keys", two, true)
	one.proxy.SetTicketKeys([][32]byte{{3}, {1}})
	wants("the keys were rotated", one, true)
	two.configure(secured(", client_ca: ca.pem", o.addr))
	wants("another client CA", two, false)
	wants("another client CA, again", two, true)
}

func TestTLSLargeBodiesBothWays(t *testing.T) {
	a := newAuthority("ca")
	body := make([]byte, 8<<20)
	rand.Read(body)
	o := secureOrigin(t, &tls.Config{Certificates: []tls.Certificate{a.pair("o", "127.0.0.1")}}, func(p *peer, _ *tls.Conn) {
		for p.request() != "" {
			got := p.body(len(body))
			p.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(got)))
			p.say(got)
		}
	})
	l := startSecure(t, a, labOptions{files: map[string][]byte{"ca.pem": a.PEM()}},
		strings.Replace(secured("", o.addr), "app: {", "app: { tls: { ca: ca.pem },", 1))
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			p, _ := l.dialTLS(&tls.Config{RootCAs: a.Pool(), ServerName: "a.example", MaxVersion: version})
			p.say(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(body)))
			p.say(string(body))
			if r := p.response(); r.body != string(body) {
				t.Errorf("got %d bytes that differ: %q", len(r.body), r.status)
			}
		})
	}
}

func TestTLSCertificatesAreReloaded(t *testing.T) {
	a := newAuthority("ca")
	l := startSecure(t, a, labOptions{}, secured("", "127.0.0.1:9"))
	config := &tls.Config{RootCAs: a.Pool(), ServerName: "a.example"}
	_, before := l.dialTLS(config)
	l.files["a.pem"], l.files["a.key"] = a.issue("renewed", "a.example")
	l.configure(secured("", "127.0.0.1:9"))
	_, after := l.dialTLS(config)
	if got := before.ConnectionState().PeerCertificates[0].Subject.CommonName; got != "a" {
		t.Errorf("before: got %s", got)
	}
	if got := after.ConnectionState().PeerCertificates[0].Subject.CommonName; got != "renewed" {
		t.Errorf("after: got %s", got)
	}
}

func TestTLSBadFilesAreRefusedWhole(t *testing.T) {
	a, b := newAuthority("ca"), newAuthority("other")
	cert, key := a.issue("a", "a.example")
	_, otherKey := b.issue("b", "b.example")
	for _, c := range []struct {
		name, document, want string
		files                map[string][]byte
	}{
		{"no file", secured("", "127.0.0.1:9"), "a.pem is empty or missing", nil},
		{"no key", secured("", "127.0.0.1:9"), "a.key is empty or missing", map[string][]byte{"a.pem": cert}},
		{"another's key", secured("", "127.0.0.1:9"), "private key does not match", map[string][]byte{"a.pem": cert, "a.key": otherKey}},
		{"no PEM", secured("", "127.0.0.1:9"), "failed to find any PEM data", map[string][]byte{"a.pem": []byte("x"), "a.key": key}},
		{"an empty client CA", secured(", client_ca: ca.pem", "127.0.0.1:9"), "ca.pem holds no certificate", map[string][]byte{"a.pem": cert, "a.key": key}},
		{"no CAs of the system", toSecure(" ", "http1", "127.0.0.1:9"), "CA file of the system holds no certificate", nil},
		{"a backend's CA", toSecure(" ca: ca.pem ", "http1", "127.0.0.1:9"), "ca.pem holds no certificate", nil},
		{"our certificate for backends", toSecure(" insecure: true, cert: c.pem, key: c.key ", "http1", "127.0.0.1:9"), "c.pem is empty or missing", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := startLab(t, labOptions{}, pool("127.0.0.1:9"))
			config, err := lb.Parse([]byte(c.document), lb.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.proxy.Prepare(2, config, c.files); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestTLSHandshakeFailuresAreCounted(t *testing.T) {
	a := newAuthority("ca")
	l := startSecure(t, a, labOptions{}, secured("", "127.0.0.1:9"))
	raw, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := tls.Client(raw, &tls.Config{ServerName: "a.example", RootCAs: newAuthority("other").Pool()}).Handshake(); err == nil {
		t.Fatal("the client believes anybody")
	}
	raw.Close()
	l.dial().say("GET / HTTP/1.1\r\n\r\n").rest()
	l.dial().say("\x16\x03").Close()
	want := map[string]float64{"alert": 1, "protocol": 1, "client_abort": 1}
	for deadline := time.Now().Add(patience); !cmp.Equal(want, handshakeFailures(l)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("(-want +got):\n%s", cmp.Diff(want, handshakeFailures(l)))
		}
	}
}

// handshakeFailures are the counters by reason.
func handshakeFailures(l *lab) map[string]float64 {
	got := map[string]float64{}
	for _, s := range l.proxy.Stats().Samples {
		if s.Name == "lbd_tls_handshake_failures_total" {
			got[s.Labels[3]] += s.Value
		}
	}
	return got
}
