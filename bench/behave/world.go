package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// patience bounds every wait of a case that does not set its own.
const patience = 3 * time.Second

// world is what a case has: a proxy's address and the origin behind it. Cases
// run one after the other.
type world struct {
	proxy  string
	h2     string // speaks HTTP/2 in clear text
	origin *origin
	// backendH2 is behind /h2/, drain makes the proxy leave; either may be nil.
	backendH2 *originH2
	// backendGRPC is behind /grpc/ and, with the bridge, /web/.
	backendGRPC *originGRPC
	drain       func() error
	tls         *worldTLS // nil: no cases with TLS
	// second says that the proxy routes /two/ to a dead backend and the origin,
	// /none/ to the dead one, /hang/ to an address that never accepts, /both/ to
	// that and the origin, /slow/ to the origin with a short response time-out,
	// /late/ and, POST too, /latecall/ to one that never answers and the origin.
	second bool
	// headTimeout is how long the proxy waits for a whole head; 0: longer than a
	// case should take.
	headTimeout time.Duration
}

// origin is a scripted backend.
type origin struct {
	ln   net.Listener
	mu   sync.Mutex // guards what follows
	do   func(*conn)
	log  []request
	open map[*conn]bool
	made int // connections during the current case
}

// conn is one end of a connection, spoken byte by byte.
type conn struct {
	net.Conn
	r      *bufio.Reader
	o      *origin
	number int // of the connection in the current case, from 1; 0: from before
}

func startOrigin(addr string) (*origin, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	o := &origin{ln: ln, do: echo, open: map[*conn]bool{}}
	go o.runAccept()
	return o, nil
}

// runAccept ends when the listener is closed.
func (o *origin) runAccept() {
	for {
		c, err := o.ln.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.made++
		peer := &conn{Conn: c, r: bufio.NewReaderSize(c, 1<<20), o: o, number: o.made}
		o.open[peer] = true
		o.mu.Unlock()
		go o.serve(peer)
	}
}

// serve calls the current case's script whenever a request begins, until the
// connection ends.
func (o *origin) serve(c *conn) {
	defer func() {
		c.Close()
		o.mu.Lock()
		delete(o.open, c)
		o.mu.Unlock()
	}()
	for {
		if _, err := c.r.Peek(1); err != nil {
			return
		}
		o.mu.Lock()
		do := o.do
		o.mu.Unlock()
		do(c)
		if c.Conn.SetReadDeadline(time.Time{}) != nil { // the script closed it
			return
		}
	}
}

// begin makes the origin follow a new script, and forgets the last case.
func (w *world) begin(do func(*conn)) {
	w.flush()
	o := w.origin
	o.mu.Lock()
	defer o.mu.Unlock()
	if do == nil {
		do = echo
	}
	o.do, o.log, o.made = do, nil, 0
}

// flush makes the proxy forget its idle connections to the origin, one request
// each.
func (w *world) flush() {
	w.origin.mu.Lock()
	w.origin.do = func(c *conn) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		c.Close()
	}
	w.origin.mu.Unlock()
	for range 50 {
		w.origin.mu.Lock()
		idle := len(w.origin.open)
		w.origin.mu.Unlock()
		if idle == 0 {
			return
		}
		if c, err := w.dial(); err == nil {
			c.say("GET /flush HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").response("GET")
			c.Close()
		}
	}
}

// requests are what the origin read in full or in part in this case.
func (w *world) requests() []request {
	w.origin.mu.Lock()
	defer w.origin.mu.Unlock()
	return append([]request(nil), w.origin.log...)
}

// connections is how many the proxy made in this case.
func (w *world) connections() int {
	w.origin.mu.Lock()
	defer w.origin.mu.Unlock()
	return w.origin.made
}

func (w *world) dial() (*conn, error) {
	c, err := net.DialTimeout("tcp", w.proxy, patience)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 1<<20)}, nil
}

// client dials and closes when the case is over.
func (w *world) client(use func(*conn) string) string {
	c, err := w.dial()
	if err != nil {
		return "cannot connect: " + err.Error()
	}
	defer c.Close()
	return use(c)
}

// say writes; an error is met by who reads.
func (c *conn) say(s string) *conn {
	c.SetWriteDeadline(time.Now().Add(patience))
	io.WriteString(c.Conn, s)
	return c
}

func (c *conn) closeWrite() { c.Conn.(*net.TCPConn).CloseWrite() }

// line reads a line without its end; ok is false when there is none.
func (c *conn) line() (string, bool) {
	c.SetReadDeadline(time.Now().Add(patience))
	s, err := c.r.ReadString('\n')
	return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r"), err == nil
}

// section reads lines up to an empty one.
func (c *conn) section() (lines []string, ok bool) {
	for {
		line, ok := c.line()
		if !ok || line == "" {
			return lines, ok
		}
		lines = append(lines, line)
	}
}

// take reads n bytes, or fewer at the end.
func (c *conn) take(n int) string {
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, n)
	got, _ := io.ReadFull(c.r, b)
	return string(b[:got])
}

// rest reads until the connection ends and says how it did.
func (c *conn) rest() (data, how string) {
	c.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c.r)
	switch {
	case err == nil:
		return string(b), "close"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return string(b), "silence"
	}
	return string(b), "reset"
}

// fields are lines of a head or of trailers.
type fields []string

// get returns all values of a name, joined by a bar.
func (f fields) get(name string) string {
	var values []string
	for _, line := range f {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return strings.Join(values, "|")
}

func (f fields) has(name string) bool {
	for _, line := range f {
		if n, _, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// message is a head with its body.
type message struct {
	line    string
	fields  fields
	body    string
	trailer fields
	framing string // length | chunked | close | none
	whole   bool
}

// request is a message with what it was read from.
type request struct {
	message
	conn int
}

// request reads one request and puts it in the log, whole or not.
func (c *conn) request() message {
	m := c.head()
	c.readBody(&m, "none")
	if c.o != nil {
		c.o.mu.Lock()
		if m.line != "" && !strings.Contains(m.line, " /flush ") && !strings.Contains(m.line, " /probe ") {
			c.o.log = append(c.o.log, request{m, c.number})
		}
		c.o.mu.Unlock()
	}
	return m
}

// head reads a head only.
func (c *conn) head() message {
	lines, ok := c.section()
	m := message{whole: ok, framing: "none"}
	if len(lines) > 0 {
		m.line, m.fields = lines[0], lines[1:]
	}
	return m
}

// response reads one response to a method.
func (c *conn) response(method string) message {
	m := c.head()
	status := m.status()
	if !m.whole || method == "HEAD" || status < 200 || status == 204 || status == 304 {
		return m
	}
	c.readBody(&m, "close")
	return m
}

func (c *conn) readBody(m *message, otherwise string) {
	switch {
	case !m.whole:
	case strings.EqualFold(m.fields.get("transfer-encoding"), "chunked"):
		m.framing = "chunked"
		c.readChunks(m)
	case m.fields.has("content-length"):
		m.framing = "length"
		n, err := strconv.Atoi(m.fields.get("content-length"))
		if err != nil || n < 0 || n > 64<<20 {
			m.whole = false
			return
		}
		m.body = c.take(n)
		m.whole = len(m.body) == n
	case otherwise == "close":
		var how string
		m.framing = "close"
		m.body, how = c.rest()
		m.whole = how == "close"
	}
}

func (c *conn) readChunks(m *message) {
	for {
		line, _ := c.line()
		n, err := strconv.ParseInt(line, 16, 32)
		if err != nil {
			m.whole = false
			m.body += "<" + line + ">" // an extension, or the end
			return
		}
		if n == 0 {
			m.trailer, m.whole = c.section()
			return
		}
		data := c.take(int(n))
		m.body += data
		if end, ok := c.line(); len(data) < int(n) || end != "" || !ok {
			m.whole = false
			return
		}
	}
}

func (m *message) status() int {
	_, rest, _ := strings.Cut(m.line, " ")
	code, _, _ := strings.Cut(rest, " ")
	n, _ := strconv.Atoi(code)
	return n
}

// said is a response in short: "200", "200 cut" when it is not whole, "-" when
// there is none.
func (m *message) said() string {
	switch {
	case m.line == "":
		return "-"
	case !m.whole:
		return fmt.Sprint(m.status(), " cut")
	}
	return strconv.Itoa(m.status())
}

// fate tells whether the connection lives on: by asking for another response.
func (c *conn) fate(last message) string {
	if strings.EqualFold(last.fields.get("connection"), "close") || last.framing == "close" || last.line == "" {
		if _, how := c.rest(); how == "silence" {
			return "silence"
		}
		return "close"
	}
	m := c.say("GET /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").response("GET")
	switch {
	case m.line == "":
		return "close"
	case !strings.HasPrefix(m.body, "GET /probe "):
		return "DESYNC"
	}
	return "open"
}

// echo answers 200 with what it read: the request line, then the body.
func echo(c *conn) {
	m := c.request()
	if !m.whole {
		c.Close()
		return
	}
	body := m.line + "|" + m.body
	if strings.HasPrefix(m.line, "HEAD ") {
		c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)))
		return
	}
	c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

// saying answers every request but probes with the same bytes.
func saying(response string) func(*conn) {
	return func(c *conn) {
		if probe(c) {
			return
		}
		c.request()
		c.say(response)
	}
}

// dying is saying, and then closes.
func dying(response string) func(*conn) {
	return func(c *conn) {
		if probe(c) {
			return
		}
		c.request()
		c.say(response)
		c.Close()
	}
}

// probe answers a probe as echo does.
func probe(c *conn) bool {
	b, _ := c.r.Peek(len("GET /probe "))
	if string(b) != "GET /probe " {
		return false
	}
	echo(c)
	return true
}
