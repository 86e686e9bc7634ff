package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// patience is how long an answer may take.
const patience = 20 * time.Second

// dialer makes connections; open, if any, is what comes before the first request.
type dialer struct {
	address string
	open    func(net.Conn) (net.Conn, error)
}

// connect opens a connection; its line is known even when that fails half way.
func (d dialer) connect() (net.Conn, line, error) {
	began := time.Now()
	c, err := net.Dial("tcp", d.address)
	if err != nil {
		return nil, line{}, err
	}
	n := lineOf(c, began)
	if d.open == nil {
		return c, n, nil
	}
	c.SetDeadline(time.Now().Add(patience))
	opened, err := d.open(c)
	if err != nil {
		c.Close()
		return nil, n, fmt.Errorf("open: %w", err)
	}
	return opened, n, nil
}

func secured(protocol string) func(net.Conn) (net.Conn, error) {
	return func(c net.Conn) (net.Conn, error) {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
		return t, t.Handshake()
	}
}

// upgraded makes a tunnel. A backend that echoes says nothing by itself: nothing
// is read too much.
func upgraded(c net.Conn) (net.Conn, error) {
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: chaos\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && res.StatusCode != 101 {
		err = errors.New(res.Status)
	}
	return c, err
}

func (l *load) clients(t *tally, n int, pace time.Duration, d dialer, say func(*talk) error) {
	l.add(t, n)
	for range n {
		l.work.Go(func() {
			for first := true; !l.over(min(pace, 300*time.Millisecond)); {
				c, n, err := d.connect()
				if err != nil {
					t.sent.Add(1)
					l.ended(t, n, err)
					continue
				}
				if first {
					t.here.Add(1)
					first = false
				}
				l.runTalk(t, c, n, pace, say)
				c.Close()
			}
		})
	}
}

func (l *load) runTalk(t *tally, c net.Conn, n line, pace time.Duration, say func(*talk) error) {
	k := &talk{Conn: c, r: bufio.NewReader(c)}
	for !l.over(0) {
		var err error
		if k.count > 0 {
			err = k.rest(around(pace))
		}
		if err == nil {
			t.sent.Add(1)
			err = say(k)
		}
		if err == errDone {
			return
		}
		if err != nil {
			l.ended(t, n, err)
			return
		}
	}
}

// talk is one connection on which something is said and comes back.
type talk struct {
	net.Conn
	r     *bufio.Reader
	count int
	last  bool // asks for the end of the connection, too
}

// rest waits, and sees when the other side does not.
func (k *talk) rest(d time.Duration) error {
	k.SetReadDeadline(time.Now().Add(d))
	b, err := k.r.Peek(1)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err == nil:
		return fmt.Errorf("%w: %q, not asked for", errWrong, b)
	}
	return fmt.Errorf("%w: %w", errLeft, err)
}

// request is the n-th of a connection: its path tells the backend what to do,
// and is what comes back, over and over.
func request(n int) (method, path string, size int, body string) {
	switch n % 10 {
	case 3:
		return "GET", fmt.Sprintf("/late/%d", n), 100, ""
	case 5:
		return "GET", fmt.Sprintf("/halves/%d", n), 5000, ""
	case 7:
		path = fmt.Sprintf("/post/%d", n)
		return "POST", path, 20000, strings.Repeat(path, 20000/len(path))
	case 9:
		return "GET", fmt.Sprintf("/now/%d", n), 100000, ""
	}
	return "GET", fmt.Sprintf("/now/%d", n), 100, ""
}

// answer is what must come back for a path.
func answer(path string, size int) string {
	return strings.Repeat(path, size/len(path))
}

func (k *talk) ask() error {
	k.SetDeadline(time.Now().Add(patience))
	method, path, size, body := request(k.count)
	k.count++
	text := fmt.Sprintf("%s %s?%d HTTP/1.1\r\nHost: chaos\r\n", method, path, size)
	if body != "" {
		text += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	if k.last {
		text += "Connection: close\r\n"
	}
	if _, err := io.WriteString(k, text+"\r\n"+body); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	res, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return check(res, path, answer(path, size))
}

func check(res *http.Response, path, want string) error {
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	switch {
	case err != nil:
		return fmt.Errorf("body of %s, %d bytes: %w", path, len(body), err)
	case res.StatusCode >= 500:
		return fmt.Errorf("%s: %s %.200q", path, res.Status, body)
	case res.StatusCode != 200 || string(body) != want:
		return fmt.Errorf("%w: %s %d bytes %.40q for %s", errWrong, res.Status, len(body), body, path)
	case res.Close:
		return errLast
	}
	return nil
}

// echo sends up to 30 KB and reads them back at the same time.
func (k *talk) echo() error {
	k.SetDeadline(time.Now().Add(patience))
	k.count++
	text := bytes.Repeat(fmt.Appendf(nil, "%d,", k.count), 1+k.count%7*700)
	wrote := make(chan error, 1)
	go func() { _, err := k.Write(text); wrote <- err }()
	got := make([]byte, len(text))
	n, err := io.ReadFull(k.r, got)
	if err != nil {
		return fmt.Errorf("echo %d, %d of %d bytes: %w", k.count, n, len(text), err)
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(got, text) {
		return fmt.Errorf("%w: echo %d", errWrong, k.count)
	}
	return nil
}

// http2 runs connections with streams, of which each asks all the time. Nothing
// is asked again behind our back, but for what the proxy says it did not do.
func (l *load) http2(t *tally, conns, streams int, pace time.Duration, d dialer, once func(*http.ClientConn, int) error) {
	l.add(t, conns)
	for range conns {
		s := &shared{load: l, tally: t, dialer: d, once: once}
		for i := range streams {
			l.work.Go(func() {
				for n := i; !l.over(pace); n++ {
					s.ask(n)
				}
			})
		}
	}
}

// shared is an HTTP/2 connection of several streams.
type shared struct {
	load   *load
	tally  *tally
	dialer dialer
	once   func(*http.ClientConn, int) error

	mu   sync.Mutex // guards what follows
	conn *http.ClientConn
	line line
	ever bool
}

// get returns a connection that takes a request.
func (s *shared) get() (*http.ClientConn, line, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		if s.conn.Err() == nil && s.conn.Available() > 0 {
			return s.conn, s.line, nil
		}
		if !s.load.excuses(s.line) {
			s.tally.closed.Add(1)
		}
		s.conn = nil
	}
	c, n, err := s.dialer.connect()
	if err != nil {
		return nil, n, err
	}
	c.SetDeadline(time.Time{})
	s.line = n
	given := func(context.Context, string, string) (net.Conn, error) { return c, nil }
	s.conn, err = (&http.Transport{ForceAttemptHTTP2: true, DialTLSContext: given}).NewClientConn(context.Background(), "https", s.dialer.address)
	if err == nil && !s.ever {
		s.tally.here.Add(1)
		s.ever = true
	}
	return s.conn, n, err
}

// tries bounds how often a request is asked again that was not begun.
const tries = 5

func (s *shared) ask(n int) {
	s.tally.sent.Add(1)
	for i := 0; ; i++ {
		c, line, err := s.get()
		if err == nil {
			err = s.once(c, n)
		}
		if err == nil || errors.Is(err, errLast) {
			return
		}
		if i < tries && unbegun(err) {
			continue
		}
		s.load.ended(s.tally, line, err)
		return
	}
}

// unbegun reports whether the proxy, or our own side before anything was sent,
// said that the request was not begun.
func unbegun(err error) bool {
	for _, text := range []string{"client conn not usable", "graceful shutdown GOAWAY", "force closed via ClientConn.Close", "REFUSED_STREAM"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func askH2(c *http.ClientConn, n int) error {
	method, path, size, body := request(n)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("https://chaos%s?%d", path, size), strings.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return check(res, path, answer(path, size))
}
