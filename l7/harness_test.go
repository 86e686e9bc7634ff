package l7

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// patience bounds what a test waits for; nothing waits for it to pass.
const patience = 30 * time.Second

// lab is a running proxy with one listener, "web".
type lab struct {
	t     testing.TB
	proxy *Proxy
	addr  string
	stop  context.CancelFunc
	files map[string][]byte
}

// options of a lab.
type labOptions struct {
	threads int
	filters map[string]Filter
	files   map[string][]byte // that the document names
	flight  []byte
	log     *slog.Logger
}

// startLab runs a proxy with a configuration; $NAME in it is replaced by vars.
func startLab(t testing.TB, o labOptions, document string) *lab {
	t.Helper()
	filters := map[string]Builder{}
	for name, f := range o.filters {
		filters[name] = func(lb.Node) (Filter, error) { return f, nil }
	}
	p, err := New(Options{Threads: max(1, o.threads), Filters: filters, Log: o.log, Flight: o.flight})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, proxy: p, files: o.files}
	l.configure(document)
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	l.listen()
	return l
}

func (l *lab) configure(document string) {
	l.t.Helper()
	config, err := lb.Parse([]byte(document), lb.Options{})
	if err != nil {
		l.t.Fatalf("%v\n%s", err, document)
	}
	s, err := l.proxy.Prepare(1, config, l.files)
	if err != nil {
		l.t.Fatal(err)
	}
	l.proxy.Commit(s)
}

// listen makes every thread accept on a duplicate of one socket.
func (l *lab) listen() {
	l.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	l.addr = ln.Addr().String()
	for i := range l.proxy.threads {
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			l.t.Fatal(err)
		}
		fd, err := dup(f)
		f.Close()
		if err != nil {
			l.t.Fatal(err)
		}
		if err := l.proxy.Accept(i, "web", fd); err != nil {
			l.t.Fatal(err)
		}
	}
}

// pool is the usual configuration: everything goes to these backends.
func pool(backends ...string) string { return routed("", backends...) }

// routed is pool with more keys in its route, a flow mapping's inside.
func routed(route string, backends ...string) string {
	if route != "" {
		route = ", " + route
	}
	return fmt.Sprintf("listeners: { web: { bind: \"127.0.0.1:1\" } }\nroutes:\n  - { pool: app%s }\npools:\n  app: { backends: [%s] }\n",
		route, `"`+strings.Join(backends, `", "`)+`"`)
}

// origin is a scripted backend: each connection is served by script on a
// goroutine, and is closed when that returns.
type origin struct {
	addr  string
	conns atomic.Int64
	mu    sync.Mutex
	open  []net.Conn
}

func startOrigin(t testing.TB, script func(c *peer)) *origin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{addr: ln.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.open = append(o.open, c)
			n := int(o.conns.Add(1))
			o.mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				script(&peer{t: t, Conn: c, r: bufio.NewReader(c), number: n})
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		o.mu.Lock()
		for _, c := range o.open {
			c.Close()
		}
		o.mu.Unlock()
		serving.Wait()
	})
	return o
}

// answering serves every request of every connection with the same bytes.
func answering(response string) func(*peer) {
	return func(c *peer) {
		for c.request() != "" {
			c.say(response)
		}
	}
}

// peer is one end of a connection, spoken byte by byte.
type peer struct {
	t testing.TB
	net.Conn
	r      *bufio.Reader
	number int // of the connection, among its origin's, from 1
	used   int // a script's own count
}

func newPeer(t testing.TB, c net.Conn) *peer { return &peer{t: t, Conn: c, r: bufio.NewReader(c)} }

func (l *lab) dial() *peer {
	l.t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return &peer{t: l.t, Conn: c, r: bufio.NewReader(c)}
}

// say writes; an error is met by who reads.
func (p *peer) say(s string) *peer {
	p.SetWriteDeadline(time.Now().Add(patience))
	io.WriteString(p.Conn, s)
	return p
}

// line reads one line, without its end; "" at the connection's end.
func (p *peer) line() string {
	p.SetReadDeadline(time.Now().Add(patience))
	s, _ := p.r.ReadString('\n')
	return strings.TrimRight(s, "\r\n")
}

// head reads a head, lines joined by newlines; "" at the connection's end.
func (p *peer) head() string {
	var lines []string
	for {
		line := p.line()
		if line == "" {
			return strings.Join(lines, "\n")
		}
		lines = append(lines, line)
	}
}

// request reads a request's head.
func (p *peer) request() string { return p.head() }

// body reads n bytes.
func (p *peer) body(n int) string {
	b := make([]byte, n)
	p.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadFull(p.r, b)
	if err != nil {
		return string(b[:got]) + "<" + err.Error() + ">"
	}
	return string(b)
}

// rest reads until the connection ends; a reset is said at the end.
func (p *peer) rest() string {
	p.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(p.r)
	if err != nil {
		return string(b) + "<" + errText(err) + ">"
	}
	return string(b)
}

func errText(err error) string {
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return "timeout"
	}
	if strings.Contains(err.Error(), "reset") {
		return "reset"
	}
	return err.Error()
}

// response is a response as the client sees it.
type response struct {
	status  string // the first line
	head    string // the other lines
	body    string
	trailer string
}

// field returns the value of a head's field, "" without; several are joined by
// a bar.
func field(head, name string) string {
	var values []string
	for line := range strings.Lines(head) {
		if n, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return strings.Join(values, "|")
}

// response reads a response to a request that may have a body.
func (p *peer) response() response {
	p.t.Helper()
	r := response{}
	r.status, r.head, _ = strings.Cut(p.head(), "\n")
	status, _, _ := strings.Cut(strings.TrimPrefix(r.status, "HTTP/1.1 "), " ")
	switch {
	case r.status == "" || strings.HasPrefix(status, "1") || status == "204" || status == "304":
	case field(r.head, "transfer-encoding") == "chunked":
		r.body, r.trailer = p.chunks()
	case field(r.head, "content-length") != "":
		n := 0
		fmt.Sscan(field(r.head, "content-length"), &n)
		r.body = p.body(n)
	default:
		r.body = p.rest()
	}
	return r
}

// chunks reads a chunked body with its trailers; a body that is cut off ends
// with "<cut>".
func (p *peer) chunks() (body, trailer string) {
	var b strings.Builder
	for {
		line := p.line()
		var n int
		if _, err := fmt.Sscanf(line, "%x", &n); err != nil {
			return b.String() + "<cut>", ""
		}
		if n == 0 {
			return b.String(), p.head()
		}
		b.WriteString(p.body(n))
		p.line()
	}
}

// get sends a GET of a path and returns the response.
func (p *peer) get(path string) response {
	p.t.Helper()
	return p.say("GET " + path + " HTTP/1.1\r\nHost: a.example\r\n\r\n").response()
}

func (r response) want(t testing.TB, status, body string) {
	t.Helper()
	if !strings.HasPrefix(r.status, "HTTP/1.1 "+status) || r.body != body {
		t.Errorf("got %q %q, want %s %q\n%s", r.status, shorten(r.body), status, shorten(body), r.head)
	}
}

func shorten(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%s... (%d bytes)", s[:100], len(s))
	}
	return s
}

// ended says what is left of a connection that should have ended.
func (p *peer) ended(t testing.TB) {
	t.Helper()
	if rest := p.rest(); rest != "" && rest != "<reset>" {
		t.Errorf("got %q, want the connection's end", shorten(rest))
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func (p *peer) closeWrite() { p.Conn.(*net.TCPConn).CloseWrite() }

// hurried is a lab whose connections wait for little.
func hurried(t testing.TB, head, keepAlive time.Duration, document string) *lab {
	l := startLab(t, labOptions{}, document)
	l.hurry(times{head, keepAlive, 200 * time.Millisecond, handshakeTimeout})
	return l
}

// hurry changes the time-outs of a lab with one thread.
func (l *lab) hurry(to times) {
	done := make(chan struct{})
	l.proxy.threads[0].loop.Post(func() {
		l.proxy.times = to
		close(done)
	})
	<-done
}
