package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// serve answers /CLASS/ID/SIZE with the body that belongs to it.
func serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) != 4 {
		http.Error(w, "what?", http.StatusBadRequest)
		return
	}
	id, _ := strconv.ParseUint(parts[2], 10, 64)
	size, _ := strconv.Atoi(parts[3])
	sign(w, r, id)
	if r.Header.Get("Upgrade") != "" {
		tunnel(w)
		return
	}
	if text := r.Header.Get("X-Upload"); text != "" {
		n, _ := strconv.Atoi(text)
		body := pattern{id: id + 1, size: n}
		if err := body.check(r.Body, make([]byte, 32<<10)); err != nil {
			http.Error(w, "upload: "+err.Error(), http.StatusUnprocessableEntity)
			return
		}
	}
	if id%97 == 0 {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
	}
	if id%50 == 0 {
		time.Sleep(100 * time.Millisecond)
	}
	w.Header().Set("X-Id", parts[2])
	body := &pattern{id: id, size: size}
	if id%2 == 0 {
		w.Header().Set("Content-Length", parts[3])
		io.Copy(w, body)
		return
	}
	w.Header().Set("Trailer", "X-End")
	io.CopyN(w, body, int64(size/2))
	w.(http.Flusher).Flush()
	io.Copy(w, body)
	w.Header().Set("X-End", parts[2])
}

// tunnel echoes what comes after a 101.
func tunnel(w http.ResponseWriter) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	echo(c, rw.Reader)
}

func echo(c net.Conn, r *bufio.Reader) {
	io.Copy(c, r)
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// startEcho echoes connections.
func startEcho() (addr string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); echo(c, bufio.NewReader(c)) }()
		}
	}()
	return ln.Addr().String(), func() { ln.Close() }, nil
}

// startOrigin serves HTTP/1, and HTTP/2 in clear text.
func startOrigin(ln net.Listener, b *book, name string) (stop func()) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: http.HandlerFunc(serve), Protocols: protocols, ConnContext: withConn}
	go server.Serve(recording{ln, b, name})
	return func() { server.Close() }
}

// flaky is a listener that comes and goes. While it is away it refuses, resets
// or ignores who connects; each time all its connections are reset, whatever
// they are in the middle of.
type flaky struct {
	addr   *net.TCPAddr
	conns  chan net.Conn // to the server
	over   chan struct{}
	random *rand.Rand

	mu   sync.Mutex // guards what follows
	open map[net.Conn]bool
	mode mode
}

type mode int

const (
	up mode = iota
	refusing
	resetting
	ignoring
	modes
)

func newFlaky(seed uint64) (*flaky, error) {
	addr, err := keepPort()
	if err != nil {
		return nil, err
	}
	ln, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, err
	}
	f := &flaky{addr: addr, conns: make(chan net.Conn), over: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 5)), open: map[net.Conn]bool{}}
	go f.runModes(ln)
	return f, nil
}

// keepPort binds a port for as long as the process lives, without listening: who
// connects is refused, but no stranger gets it and answers in the flaky one's
// place.
func keepPort() (*net.TCPAddr, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	loopback := [4]byte{127, 0, 0, 1}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback})); err != nil {
		return nil, err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	return &net.TCPAddr{IP: loopback[:], Port: bound.(*unix.SockaddrInet4).Port}, nil
}

// runModes changes the mode at random, most of the time it is up.
func (f *flaky) runModes(ln net.Listener) {
	for {
		if ln != nil {
			go f.runAccept(ln)
		}
		f.wait(time.Duration(500+f.random.IntN(5000)) * time.Millisecond)
		m := mode(1 + f.random.IntN(int(modes)-1))
		f.enter(m)
		if m == refusing && ln != nil {
			ln.Close()
		}
		f.wait(time.Duration(100+f.random.IntN(2500)) * time.Millisecond)
		f.enter(up)
		if m != refusing && ln != nil {
			ln.Close()
		}
		select {
		case <-f.over:
			return
		default:
		}
		ln, _ = net.ListenTCP("tcp", f.addr) // if not now, then later
	}
}

func (f *flaky) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.over:
	}
}

func (f *flaky) enter(m mode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = m
	for c := range f.open {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	clear(f.open)
}

func (f *flaky) runAccept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		m := f.mode
		if m != resetting {
			f.open[c] = true
		}
		f.mu.Unlock()
		switch m {
		case up:
			select {
			case f.conns <- c:
			case <-f.over:
				return
			}
		case resetting:
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
}

// Accept, Close and Addr make it the server's listener.
func (f *flaky) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return counted{c, f}, nil
	case <-f.over:
		return nil, net.ErrClosed
	}
}

func (f *flaky) Close() error {
	select {
	case <-f.over:
	default:
		close(f.over)
	}
	return nil
}

func (f *flaky) Addr() net.Addr { return f.addr }

// counted leaves the books when it is closed.
type counted struct {
	net.Conn
	f *flaky
}

func (c counted) Close() error {
	c.f.mu.Lock()
	delete(c.f.open, c.Conn)
	c.f.mu.Unlock()
	return c.Conn.Close()
}

func (c counted) String() string { return fmt.Sprint(c.RemoteAddr()) }
