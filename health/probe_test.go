package health

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

var sockets = prober{dial: (&net.Dialer{}).DialContext}

func TestProbesOverRealSockets(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz" && !r.Close:
			http.Error(w, "the connection stays open", http.StatusBadRequest)
		case r.Host == "wanted.example":
			w.WriteHeader(http.StatusTeapot)
		case r.URL.Path != "/healthz":
			http.NotFound(w, r)
		}
	})
	server := httptest.NewServer(handler)
	defer server.Close()
	secure := httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	closed := httptest.NewServer(handler)
	closed.Close()
	socket := filepath.Join(t.TempDir(), "s")
	local, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	go http.Serve(local, handler)

	proxied := httptest.NewUnstartedServer(handler)
	proxied.Listener = localOnly{proxied.Listener, t}
	proxied.TLS = secure.TLS
	proxied.StartTLS()
	defer proxied.Close()

	for _, test := range []struct {
		name    string
		address string
		change  func(*Target)
		saw     string
		err     string
	}{
		{"http", server.Listener.Addr().String(), nil, "status 200", ""},
		{"http, not expected", server.Listener.Addr().String(), func(t *Target) { t.Check.HTTP = "/" }, "", "status 404, expected 200-299"},
		{"http with a host and a status of its own", server.Listener.Addr().String(), func(t *Target) {
			t.Check.HTTP, t.Check.Host, t.Check.Expect = "/", "wanted.example", lb.Statuses{{From: 418, To: 418}}
		}, "status 418", ""},
		{"http on a unix socket", "unix:" + socket, nil, "status 200", ""},
		{"http over tls", secure.Listener.Addr().String(), func(t *Target) { t.TLS = &tls.Config{RootCAs: roots} }, "status 200", ""},
		{"tls, not trusted", secure.Listener.Addr().String(), func(t *Target) { t.TLS = &tls.Config{} }, "", "connect: tls: "},
		{"http to tls", secure.Listener.Addr().String(), nil, "", "status 400, expected 200-299"},
		{"with a PROXY header before it", proxied.Listener.Addr().String(), func(t *Target) { t.TLS, t.Proxy = &tls.Config{RootCAs: roots}, true }, "status 200", ""},
		{"tcp", server.Listener.Addr().String(), func(t *Target) { t.Check.HTTP = "" }, "connected", ""},
		{"http, one of several statuses", server.Listener.Addr().String(), func(t *Target) {
			t.Check.HTTP, t.Check.Expect = "/", lb.Statuses{{From: 200, To: 299}, {From: 404, To: 404}}
		}, "status 404", ""},
		{"http with a body", server.Listener.Addr().String(), func(t *Target) {
			t.Check.HTTP, t.Check.Expect, t.Check.Body = "/", lb.Statuses{{From: 404, To: 404}}, "not found"
		}, "status 404", ""},
		{"http with another body", server.Listener.Addr().String(), func(t *Target) {
			t.Check.HTTP, t.Check.Expect, t.Check.Body = "/", lb.Statuses{{From: 404, To: 404}}, "ready"
		}, "", `status 404, but the body "404 page not found\n" is without "ready"`},
		{"http HEAD", server.Listener.Addr().String(), func(t *Target) { t.Check.Method = "HEAD" }, "status 200", ""},
		{"http POST", server.Listener.Addr().String(), func(t *Target) { t.Check.Method = "POST" }, "status 200", ""},
		{"tls by the check alone", secure.Listener.Addr().String(), func(t *Target) { t.Check.TLS = true }, "status 200", ""},
		{"a certificate that lasts", secure.Listener.Addr().String(), func(t *Target) { t.Check.TLS, t.Check.Certificate = true, time.Hour }, "status 200", ""},
		{"a certificate that ends soon", secure.Listener.Addr().String(), func(t *Target) { t.Check.TLS, t.Check.Certificate = true, 100*365*24*time.Hour }, "", "its certificate ends on 2084-01-29T16:00:00Z, in less than "},
		{"tcp with an answer", server.Listener.Addr().String(), func(t *Target) {
			t.Check.HTTP, t.Check.Send, t.Check.Receive = "", "PING\r\n\r\n", "400 Bad Request"
		}, `received "400 Bad Request"`, ""},
		{"tcp with another answer", server.Listener.Addr().String(), func(t *Target) {
			t.Check.HTTP, t.Check.Send, t.Check.Receive = "", "PING\r\n\r\n", "+PONG"
		}, "", `received "HTTP/1.1 400 Bad Request`},
		{"tcp that is told something", server.Listener.Addr().String(), func(t *Target) { t.Check.HTTP, t.Check.Send = "", "QUIT\r\n" }, "sent", ""},
		{"tcp without an answer", server.Listener.Addr().String(), func(t *Target) {
			t.Check.HTTP, t.Check.Receive, t.Check.Timeout = "", "+OK", 50*time.Millisecond
		}, "", "receive: no answer within 50ms"},
		{"refused", closed.Listener.Addr().String(), nil, "", "connect: connection refused"},
		{"no such socket", "unix:" + socket + "x", nil, "", "connect: no such file or directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			what := toProbe(test.address)
			if test.change != nil {
				test.change(&what)
			}
			saw, err := sockets.probe(t.Context(), what)
			if saw != test.saw || (err == nil) != (test.err == "") || err != nil && !strings.HasPrefix(err.Error(), test.err) {
				t.Errorf("got %q, %v; want %q, %q", saw, err, test.saw, test.err)
			}
		})
	}
}

// localOnly takes a PROXY header of no client from each connection.
type localOnly struct {
	net.Listener
	t *testing.T
}

func (l localOnly) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		head := make([]byte, 16)
		if _, err := io.ReadFull(c, head); err != nil || string(head) != "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" {
			l.t.Errorf("the connection begins with %q, %v", head, err)
		}
	}
	return c, err
}

func TestGRPC(t *testing.T) {
	answers := map[string]struct {
		frame  string
		status string
	}{
		"":     {"\x00\x00\x00\x00\x02\x08\x01", "0"},
		"shop": {"\x00\x00\x00\x00\x02\x08\x02", "0"},
		"none": {"", "5"},
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		frame := make([]byte, 64)
		n, _ := r.Body.Read(frame)
		service := ""
		if n > 7 {
			service = string(frame[7:n])
		}
		if r.ProtoMajor != 2 || r.URL.Path != "/grpc.health.v1.Health/Check" || r.Header.Get("content-type") != "application/grpc" {
			t.Errorf("request: %s %s %v", r.Proto, r.URL.Path, r.Header)
		}
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("Trailer:grpc-status", answers[service].status)
		w.Write([]byte(answers[service].frame))
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()

	for _, test := range []struct{ address, service, saw, err string }{
		{server.Listener.Addr().String(), "", "serving", ""},
		{server.Listener.Addr().String(), "shop", "", "not serving"},
		{server.Listener.Addr().String(), "none", "", `grpc-status "5"`},
		{plain.Listener.Addr().String(), "", "", "call: "},
	} {
		what := toProbe(test.address)
		what.Check.HTTP, what.Check.GRPC = "", &test.service
		saw, err := sockets.probe(t.Context(), what)
		if saw != test.saw || (err == nil) != (test.err == "") || err != nil && !strings.HasPrefix(err.Error(), test.err) {
			t.Errorf("%q: got %q, %v; want %q, %q", test.service, saw, err, test.saw, test.err)
		}
	}
}

func TestAProbeComesFromThePoolsBind(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	from := make(chan string, 1)
	go func() { // ends with the listener
		if c, err := ln.Accept(); err == nil {
			from <- c.RemoteAddr().(*net.TCPAddr).IP.String()
			c.Close()
		}
	}()
	config := &lb.Config{Pools: []*lb.Pool{{Name: "app", Bind: netip.MustParseAddr("127.0.0.2"), Check: &lb.Check{TCP: true, Timeout: 5 * time.Second},
		Backends: []*lb.Backend{{Address: ln.Addr().String()}}}}}
	targets := Targets(config)
	if saw, err := sockets.probe(t.Context(), targets[0]); err != nil {
		t.Fatal(saw, err)
	}
	if got := <-from; got != "127.0.0.2" {
		t.Errorf("the probe came from %s", got)
	}
}
