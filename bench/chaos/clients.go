package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// load is all clients. Each checks what comes back and comes again when its
// connection ends.
type load struct {
	site   *site
	stop   chan struct{}
	work   sync.WaitGroup
	kinds  []*tally
	killed atomic.Int64 // when a worker was last killed, Unix ms
}

// tally counts one kind of clients.
type tally struct {
	name                                 string
	moves                                bool // an upgrade must not close its connections
	sent, failed, excused, wrong, closed atomic.Int64

	mu    sync.Mutex // guards first
	first error
}

func newLoad(s *site) *load { return &load{site: s, stop: make(chan struct{})} }

func (l *load) start(p plan) {
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	plain := func(addr string) func() (net.Conn, error) {
		return func() (net.Conn, error) { return net.Dial("tcp", addr) }
	}
	web, raw := plain(at(l.site.web)), plain(at(l.site.raw))
	secure := func() (net.Conn, error) {
		return tls.Dial("tcp", at(l.site.tls), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	l.clients("keep-alive", true, p.plain, web, (*talk).ask)
	l.clients("tls", false, p.tls, secure, (*talk).ask)
	l.clients("websocket", true, p.tunnels, upgraded(web), (*talk).echo)
	l.clients("tcp", true, p.tcp, raw, (*talk).echo)
	l.http2(p.h2, p.streams, "https://"+at(l.site.tls))
}

// excuse says that a worker is being killed: what it had read fails.
func (l *load) excuse() { l.killed.Store(time.Now().UnixMilli()) }

const excused = 2 * time.Second

func (l *load) failed(t *tally, err error) {
	if time.Now().UnixMilli()-l.killed.Load() < excused.Milliseconds() {
		t.excused.Add(1)
		return
	}
	if errors.Is(err, errWrong) {
		t.wrong.Add(1)
	} else {
		t.failed.Add(1)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		t.first = fmt.Errorf("%s: %w", time.Now().Format("15:04:05.000"), err)
	}
}

func (l *load) tally(name string, moves bool) *tally {
	t := &tally{name: name, moves: moves}
	l.kinds = append(l.kinds, t)
	return t
}

// pause keeps a client from being a busy loop: the load is a fraction of what
// the machine can do.
const pause = 20 * time.Millisecond

func (l *load) over() bool {
	select {
	case <-l.stop:
		return true
	case <-time.After(pause):
		return false
	}
}

func (l *load) clients(name string, moves bool, n int, dial func() (net.Conn, error), say func(*talk) error) {
	t := l.tally(name, moves)
	for range n {
		l.work.Go(func() {
			for !l.over() {
				c, err := dial()
				if err != nil {
					t.sent.Add(1)
					l.failed(t, err)
					continue
				}
				l.runTalk(t, c, say)
				c.Close()
			}
		})
	}
}

// errLast: the answer came, and with it the wish to go.
var errLast = errors.New("connection: close")

var errWrong = errors.New("something else came back")

func (l *load) runTalk(t *tally, c net.Conn, say func(*talk) error) {
	k := &talk{Conn: c, r: bufio.NewReader(c)}
	for !l.over() {
		t.sent.Add(1)
		err := say(k)
		switch {
		case err == nil:
			continue
		case err == errLast:
			t.closed.Add(1)
		default:
			l.failed(t, err)
		}
		return
	}
}

// talk is one connection on which something is said and comes back.
type talk struct {
	net.Conn
	r     *bufio.Reader
	count int
}

const patience = 20 * time.Second

func (k *talk) ask() error {
	k.SetDeadline(time.Now().Add(patience))
	k.count++
	path := fmt.Sprintf("/%d", k.count)
	if _, err := fmt.Fprintf(k, "GET %s HTTP/1.1\r\nHost: chaos\r\n\r\n", path); err != nil {
		return err
	}
	res, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return err
	}
	return check(res, path)
}

func check(res *http.Response, path string) error {
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	switch {
	case err != nil:
		return err
	case res.StatusCode >= 500:
		return fmt.Errorf("%s: %s", res.Status, body)
	case res.StatusCode != 200 || string(body) != path:
		return fmt.Errorf("%w: %s %.40q for %s", errWrong, res.Status, body, path)
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
	_, err := io.ReadFull(k.r, got)
	if err == nil {
		err = <-wrote
	}
	if err == nil && !bytes.Equal(got, text) {
		err = errWrong
	}
	return err
}

// upgraded makes tunnels.
func upgraded(dial func() (net.Conn, error)) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		c, err := dial()
		if err != nil {
			return nil, err
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: chaos\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		// A backend that echoes says nothing by itself: nothing is read too much.
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && res.StatusCode != 101 {
			err = errors.New(res.Status)
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
}

func (l *load) http2(conns, streams int, url string) {
	t := l.tally("http2", false)
	for range conns {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		for i := range streams {
			l.work.Go(func() {
				for n := 0; !l.over(); n++ {
					t.sent.Add(1)
					path := fmt.Sprintf("/%d-%d", i, n)
					res, err := client.Get(url + path)
					if err == nil {
						err = check(res, path)
					}
					if err != nil {
						l.failed(t, err)
					}
				}
			})
		}
	}
}

func (l *load) end() {
	close(l.stop)
	l.work.Wait()
}

// report prints the result and whether it is what was promised.
func (l *load) report(w io.Writer, took time.Duration) bool {
	ok := true
	fmt.Fprintf(w, "\n%-12s %9s %7s %6s %13s %14s  (%s)\n", "clients", "sent", "failed", "wrong", "closed by us", "killed worker", took.Round(time.Second))
	for _, t := range l.kinds {
		fmt.Fprintf(w, "%-12s %9d %7d %6d %13d %14d\n", t.name, t.sent.Load(), t.failed.Load(), t.wrong.Load(), t.closed.Load(), t.excused.Load())
		if t.first != nil {
			fmt.Fprintf(w, "  the first: %v\n", t.first)
		}
		ok = ok && t.failed.Load() == 0 && t.wrong.Load() == 0 && (!t.moves || t.closed.Load() == 0)
	}
	return ok
}

// serveBackend answers requests, upgrades to an echo, or echoes from the start.
func serveBackend(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go serveConn(c)
	}
}

func serveConn(c net.Conn) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		if first, err := r.Peek(4); err != nil || string(first) != "GET " {
			io.Copy(c, r)
			return
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") != "" {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, r)
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
	}
}

// writeCertificate makes a certificate that nobody believes.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chaos"}, NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"chaos"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}
