package l7

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// behind is a document whose listener has a balancer in front, on the loopback.
func behind(document string) string {
	return strings.Replace(document, `bind: "127.0.0.1:1"`, `bind: "127.0.0.1:1", proxy_protocol: { from: ["127.0.0.0/8"] }`, 1)
}

// forwardedFor answers with the client's address, as the backend sees it.
func forwardedFor(c *peer) {
	for {
		head := c.request()
		if head == "" {
			return
		}
		from := field(head, "x-forwarded-for")
		c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(from), from))
	}
}

const v1line = "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"

func TestAProxyHeaderNamesTheClient(t *testing.T) {
	o := startOrigin(t, forwardedFor)
	l := startLab(t, labOptions{}, behind(pool(o.addr)))
	log := l.watchLog()
	for name, c := range map[string]struct{ header, client string }{
		"v1":      {v1line, "192.0.2.1"},
		"v2":      {v2(0x21, 0x21, 36+3, tcp6+"\x04\x00\x00"), "2001:db8::1"},
		"local":   {v2(0x20, 0, 0, ""), "127.0.0.1"},
		"unknown": {"PROXY UNKNOWN\r\n", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := l.dial().say(c.header + "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			p.response().want(t, "200", c.client)
			p.get("/").want(t, "200", c.client) // of the connection, not of the first request
			for range 2 {
				line := <-log.lines
				if got := fmt.Sprint(line["client"]); !strings.HasPrefix(got, c.client) && !strings.HasPrefix(got, "["+c.client) {
					t.Errorf("logged client %q, want %s", got, c.client)
				}
			}
		})
	}
}

func TestAProxyHeaderMayComeInPieces(t *testing.T) {
	o := startOrigin(t, forwardedFor)
	l := startLab(t, labOptions{}, behind(pool(o.addr)))
	text := v2(0x21, 0x11, 12+3000, tcp4+strings.Repeat("x", 3000)) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, at := range []int{1, 12, 16, 20, 28, 29, 3000, 3028, 3029} {
		p := l.dial().say(text[:at])
		l.turned()
		p.say(text[at:]).response().want(t, "200", "192.0.2.1")
	}
}

// turned returns when the loops have seen what was sent before.
func (l *lab) turned() {
	for range 3 {
		done := make(chan struct{})
		l.proxy.threads[0].loop.Post(func() { close(done) })
		<-done
	}
}

func TestAProxyHeaderComesBeforeTLS(t *testing.T) {
	a := newAuthority("ca")
	o := startOrigin(t, forwardedFor)
	l := startSecure(t, a, labOptions{}, behind(secured("", o.addr)))
	p := l.dial().say(v1line)
	c := tls.Client(p.Conn, &tls.Config{RootCAs: a.Pool(), ServerName: "a.example"})
	secure := &peer{t: t, Conn: c, r: bufio.NewReader(c)}
	secure.get("/").want(t, "200", "192.0.2.1")
}

func TestOnlyListedNetworksSendProxyHeaders(t *testing.T) {
	o := startOrigin(t, forwardedFor)
	l := startLab(t, labOptions{}, strings.Replace(behind(pool(o.addr)), "127.0.0.0/8", "192.0.2.0/24", 1))
	l.dial().get("/").want(t, "200", "127.0.0.1")
	l.dial().say(v1line+"GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().want(t, "400", "400 Bad Request: bad_request\n")
}

func TestAConnectionWithoutItsProxyHeaderIsClosed(t *testing.T) {
	o := startOrigin(t, forwardedFor)
	l := startLab(t, labOptions{}, behind(pool(o.addr)))
	for _, bytes := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 1\r\n", v2(0x21, 0x11, 4, tcp4)} {
		l.dial().say(bytes).ended(t)
	}
	l.dial().say("PROXY TCP4").Close()
	quick := usualTimes
	quick.handshake = 50 * time.Millisecond
	l.hurry(quick)
	l.dial().say("PROXY TCP4").ended(t)
	l.dial().ended(t)
	l.settled()
	stats := l.proxy.Stats()
	for reason, want := range map[lb.Reason]float64{lb.BadFraming: 3, lb.ClientAbort: 1, lb.ClientTimeout: 2} {
		if got := sum(stats, "lbd_proxy_protocol_failures_total", string(reason)); got != want {
			t.Errorf("%s: counted %v, want %v", reason, got, want)
		}
	}
	if o.conns.Load() != 0 {
		t.Error("the backend was asked")
	}
}

// telling is a document whose backends are told who the client is.
func telling(document string) string {
	return strings.Replace(document, "app: {", "app: { proxy_protocol: v2,", 1)
}

// header reads the PROXY header that a connection begins with.
func (p *peer) header() (source, destination netip.AddrPort) {
	var h proxyHeader
	for {
		b := p.body(1)
		if len(b) != 1 {
			p.t.Errorf("the connection begins with %q", b)
			return
		}
		if _, whole, err := h.read([]byte(b)); whole || err != nil {
			if err != nil {
				p.t.Error(err)
			}
			return h.source, h.destination
		}
	}
}

// tellingOrigin answers with the client's address of the PROXY header and the
// number of the connection.
func tellingOrigin(p *peer) {
	source, destination := p.header()
	for p.request() != "" {
		text := fmt.Sprintf("%v %v %d", source, destination, p.number)
		p.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text))
	}
}

func TestBackendsAreToldOfTheClient(t *testing.T) {
	o := startOrigin(t, tellingOrigin)
	l := startLab(t, labOptions{threads: 2}, telling(behind(pool(o.addr))))
	one, two := l.dial().say(v1line), l.dial().say(v2(0x21, 0x21, 36, tcp6))
	const first, second = "192.0.2.1:12345 198.51.100.2:443 ", "[2001:db8::1]:65535 [2001:db8::2]:80 "
	a, b := one.get("/"), two.get("/")
	a.want(t, "200", first+a.body[len(first):])
	b.want(t, "200", second+b.body[len(second):])
	for range 5 { // each client keeps a connection of its own
		one.get("/").want(t, "200", a.body)
		two.get("/").want(t, "200", b.body)
	}
	if n := o.conns.Load(); n != 2 {
		t.Errorf("%d connections for two clients", n)
	}
}

func TestConnectionsOfClientsThatAreGoneMakeRoom(t *testing.T) {
	o := startOrigin(t, tellingOrigin)
	l := startLab(t, labOptions{}, strings.Replace(telling(pool(o.addr)), "app: {", "app: { connections: { idle: 2 },", 1))
	for range 5 {
		p := l.dial()
		first := p.get("/")
		p.get("/").want(t, "200", first.body)
		p.Close()
	}
	if n := o.conns.Load(); n != 5 {
		t.Errorf("%d connections for five clients", n)
	}
}

// buffered is a connection of which some was read ahead.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func TestTheProxyHeaderIsOutsideOfTLS(t *testing.T) {
	a := newAuthority("ca")
	config := &tls.Config{Certificates: []tls.Certificate{a.pair("o", "127.0.0.1")}}
	o := startOrigin(t, func(p *peer) {
		source, _ := p.header()
		c := tls.Server(buffered{p.Conn, p.r}, config)
		p.r = bufio.NewReader(c)
		for p.request() != "" {
			text := source.Addr().String()
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	})
	l := startLab(t, labOptions{files: map[string][]byte{"ca.pem": a.PEM()}},
		behind(strings.Replace(telling(pool(o.addr)), "app: {", "app: { tls: { ca: ca.pem },", 1)))
	l.dial().say(v1line).get("/").want(t, "200", "192.0.2.1")
}

func TestTCPBackendsAreToldOfTheClient(t *testing.T) {
	o := startOrigin(t, func(p *peer) {
		source, destination := p.header()
		p.say(fmt.Sprintf("%v %v\n", source, destination))
		p.say(p.line() + "\n")
	})
	l := startLab(t, labOptions{}, telling(behind(tcpTo(o.addr))))
	p := l.dial().say(v1line + "hello\n")
	for _, want := range []string{"192.0.2.1:12345 198.51.100.2:443", "hello"} {
		if got := p.line(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
