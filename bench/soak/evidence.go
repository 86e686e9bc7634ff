package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A wrong answer is explained by what everybody near it saw: the client, each
// backend, and lbd's access log. Most of it is forgotten again soon.

// nonce tells backends of this run from whoever else answers.
var nonce = fmt.Sprintf("%016x", rand.Uint64())

// wrongAnswer is one with what its client knows of it.
type wrongAnswer struct {
	asked asked
	head  string // of the answer
	local string // the client's address
	err   error
}

func (w *wrongAnswer) Error() string { return w.err.Error() }
func (w *wrongAnswer) Unwrap() error { return w.err }

// tape keeps the last bytes that went by.
type tape struct {
	mu   sync.Mutex // guards what follows
	ring [8 << 10]byte
	n    int
}

func (t *tape) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if skip := n - len(t.ring); skip > 0 {
		t.n, p = t.n+skip, p[skip:]
	}
	for len(p) > 0 {
		m := copy(t.ring[t.n%len(t.ring):], p)
		t.n, p = t.n+m, p[m:]
	}
	return n, nil
}

func (t *tape) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n < len(t.ring) {
		return fmt.Sprintf("all %d bytes: %q", t.n, t.ring[:t.n])
	}
	at := t.n % len(t.ring)
	return fmt.Sprintf("the last of %d bytes: %q", t.n, append(append([]byte(nil), t.ring[at:]...), t.ring[:at]...))
}

// answered is a request as a backend saw it.
type answered struct {
	id      uint64
	at      time.Time
	backend string
	from    net.Addr
	nth     int32 // request of the connection
	line    string
}

func (a *answered) String() string {
	return fmt.Sprintf("%s backend %s, connection from %v, request %d: %s", a.at.Format(stamp), a.backend, a.from, a.nth, a.line)
}

const stamp = "15:04:05.000"

// book is what is written down.
type book struct {
	mu      sync.Mutex          // guards what follows
	answers [1 << 15]answered   // the last ones
	n       int                 //
	open    map[*recorded]bool  // connections of backends
	own     []string            // what a backend's server said by itself
	cases   map[uint64][]string // by the number of the request
}

const (
	mostCases = 20
	mostOwn   = 200
)

func (b *book) add(a answered) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[b.n%len(b.answers)] = a
	b.n++
}

// recorded is a connection that a backend serves.
type recorded struct {
	net.Conn
	book    *book
	backend string
	in, out tape
	nth     atomic.Int32
}

func (b *book) record(c net.Conn, backend string) net.Conn {
	r := &recorded{Conn: c, book: b, backend: backend}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = map[*recorded]bool{}
	}
	b.open[r] = true
	return r
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.in.Write(p[:n])
	return n, err
}

// Write looks for what the server says by itself, to a request that is none.
func (r *recorded) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("HTTP/1.1 4")) && !bytes.Contains(p, []byte("X-Origin: ")) {
		r.book.mu.Lock()
		if len(r.book.own) < mostOwn {
			r.book.own = append(r.book.own, fmt.Sprintf("%s backend %s said by itself %.200q to %v, who had said %v", time.Now().Format(stamp), r.backend, p, r.RemoteAddr(), &r.in))
		}
		r.book.mu.Unlock()
	}
	r.out.Write(p)
	return r.Conn.Write(p)
}

func (r *recorded) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (r *recorded) Close() error {
	r.book.mu.Lock()
	delete(r.book.open, r)
	r.book.mu.Unlock()
	return r.Conn.Close()
}

// recording is a listener whose connections are recorded.
type recording struct {
	net.Listener
	book    *book
	backend string
}

func (l recording) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.book.record(c, l.backend), nil
}

type recordedKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, recordedKey{}, c)
}

// sign says in a response who answers, and writes it down.
func sign(w http.ResponseWriter, r *http.Request, id uint64) {
	c := r.Context().Value(recordedKey{}).(*recorded)
	nth := c.nth.Add(1)
	w.Header().Set("X-Origin", fmt.Sprintf("%s %s %v %d", nonce, c.backend, c.RemoteAddr(), nth))
	c.book.add(answered{id, time.Now(), c.backend, c.RemoteAddr(), nth, fmt.Sprintf("%s %s %s, length %d", r.Method, r.URL, r.Proto, r.ContentLength)})
}

// wrong writes down all that is known of a wrong answer now.
func (b *book) wrong(kind string, c *client, w *wrongAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.cases) >= mostCases {
		return
	}
	local := w.local
	if local == "" {
		local = c.local
	}
	say := []string{
		fmt.Sprintf("%s %s client %s, request %d of %d bytes, upload %d: %v", time.Now().Format(stamp), kind, local, w.asked.id, w.asked.size, w.asked.upload, w.err),
		"answer: " + w.head,
		"the client said " + c.said.String(),
		"the client heard " + c.heard.String(),
	}
	seen := 0
	from := map[string]bool{}
	for i := range b.answers {
		if a := &b.answers[i]; a.id == w.asked.id && a.from != nil {
			say = append(say, a.String())
			from[a.from.String()] = true
			seen++
		}
	}
	if seen == 0 {
		say = append(say, "no backend of this run saw it")
	}
	for r := range b.open {
		if addr := r.RemoteAddr().String(); from[addr] || strings.Contains(w.head, addr+" ") {
			say = append(say, fmt.Sprintf("backend %s heard from %s %v", r.backend, addr, &r.in), fmt.Sprintf("and said %v", &r.out))
		}
	}
	if b.cases == nil {
		b.cases = map[uint64][]string{}
	}
	b.cases[w.asked.id] = say
}

// report tells of all wrong answers, with what the access log says of them.
func (b *book) report(to io.Writer, accessLog string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f, err := os.Open(accessLog); err == nil && len(b.cases) > 0 {
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			for id := range b.cases {
				if bytes.Contains(lines.Bytes(), fmt.Appendf(nil, "/%d/", id)) {
					b.cases[id] = append(b.cases[id], "access log: "+lines.Text())
				}
			}
		}
	}
	for _, say := range b.cases {
		fmt.Fprintf(to, "wrong: %s\n", strings.Join(say, "\n    "))
	}
	for _, say := range b.own {
		fmt.Fprintf(to, "backend: %s\n", say)
	}
}
