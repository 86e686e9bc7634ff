package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

var (
	errWrong   = errors.New("wrong")
	errRefused = errors.New("refused") // an honest 5xx of lbd
)

// client is one of them, with what it keeps.
type client struct {
	random *rand.Rand
	buffer []byte
	conn   net.Conn
	r      *bufio.Reader
	uses   int
	h2     *http.Client
	class  string // calm or flaky
	local  string // address

	said, heard tape
}

const patience = 30 * time.Second

func (c *client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
	if c.h2 != nil {
		c.h2.CloseIdleConnections()
		c.h2 = nil
	}
}

// dial makes a connection unless there is one, and now and then a new one.
func (c *client) dial(address string, config *tls.Config) (err error) {
	if c.uses++; c.conn != nil && c.uses < 200 {
		return c.conn.SetDeadline(time.Now().Add(patience))
	}
	c.hangUp()
	c.uses = 0
	if config != nil {
		c.conn, err = tls.Dial("tcp", address, config)
	} else {
		c.conn, err = net.Dial("tcp", address)
	}
	if err != nil {
		c.conn = nil
		return err
	}
	c.r, c.local = bufio.NewReader(io.TeeReader(c.conn, &c.heard)), c.conn.LocalAddr().String()
	return c.conn.SetDeadline(time.Now().Add(patience))
}

// size of a body: most are small.
func (c *client) size() int {
	switch n := c.random.IntN(100); {
	case n < 5:
		return 0
	case n < 90:
		return c.random.IntN(4 << 10)
	case n < 99:
		return c.random.IntN(100 << 10)
	}
	return c.random.IntN(1 << 20)
}

// plain asks by HTTP/1: some at once, in a pipeline.
func (l *load) plain(c *client) error {
	if err := c.dial(l.site.web, nil); err != nil {
		return err
	}
	return l.talk(c)
}

var anyCertificate = &tls.Config{InsecureSkipVerify: true, ServerName: "soak", NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(4)}

func (l *load) secure(c *client) error {
	if c.uses < 190 && c.random.IntN(10) == 0 {
		c.uses = 200 // handshakes are a part of it
	}
	if err := c.dial(l.site.tls, anyCertificate); err != nil {
		return err
	}
	return l.talk(c)
}

func (l *load) talk(c *client) (err error) {
	var all []asked
	var wire strings.Builder
	for range 1 + c.random.IntN(4)/3*c.random.IntN(4) {
		a := l.ask(c)
		all = append(all, a)
		a.request(context.Background(), "http://soak", c.class, c.random).Write(&wire)
	}
	wrote := make(chan error, 1)
	io.WriteString(&c.said, wire.String())
	go func() { _, err := io.WriteString(c.conn, wire.String()); wrote <- err }()
	defer func() {
		if err != nil {
			c.hangUp()
		}
		<-wrote
	}()
	for i, a := range all {
		res, err := readFinal(c.r)
		if err != nil {
			return err
		}
		if err := a.check(res, c.buffer); err != nil && (!errors.Is(err, errRefused) || i == len(all)-1 || res.Close) {
			return err
		}
		if res.Close {
			c.hangUp()
			return nil
		}
	}
	return nil
}

// readFinal reads a response behind those that are not.
func readFinal(r *bufio.Reader) (*http.Response, error) {
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode >= 200 {
			return res, err
		}
	}
}

// http2 asks several things at once.
func (l *load) http2(c *client) error {
	if c.uses++; c.h2 == nil || c.uses > 100 {
		c.hangUp()
		c.uses = 0
		c.h2 = &http.Client{Timeout: patience, Transport: &http.Transport{IdleConnTimeout: 2 * time.Second, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "soak"}}}
	}
	n := 1 + c.random.IntN(6)
	errs := make(chan error, n)
	for range n {
		a := l.ask(c)
		var local string
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { local = i.Conn.LocalAddr().String() }}
		req := a.request(httptrace.WithClientTrace(context.Background(), trace), "https://"+l.site.tls, c.class, c.random)
		go func() {
			res, err := c.h2.Do(req)
			if err == nil {
				err = a.check(res, make([]byte, 16<<10))
			}
			if w := (*wrongAnswer)(nil); errors.As(err, &w) {
				w.local = local
			}
			errs <- err
		}()
	}
	var err error
	for range n {
		if e := <-errs; e != nil && (err == nil || errors.Is(e, errWrong)) {
			err = e
		}
	}
	return err
}

// exchange sends some bytes and reads them back at the same time.
func (c *client) exchange(id uint64) error {
	size := c.size()
	wrote := make(chan error, 1)
	go func() { _, err := io.Copy(c.conn, &pattern{id: id, size: size}); wrote <- err }()
	body := pattern{id: id, size: size}
	if err := body.check(io.LimitReader(c.r, int64(size)), c.buffer); err != nil {
		c.hangUp()
		<-wrote
		return err
	}
	return <-wrote
}

func (l *load) websocket(c *client) error {
	id := l.ids.Add(2)
	fresh := c.conn == nil || c.uses >= 199
	if err := c.dial(l.site.web, nil); err != nil {
		return err
	}
	if fresh {
		fmt.Fprintf(c.conn, "GET /calm/%d/0 HTTP/1.1\r\nHost: soak\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", id)
		res, err := http.ReadResponse(c.r, nil)
		if err == nil && res.StatusCode != 101 {
			err = fmt.Errorf("%w: %s", errWrong, res.Status)
		}
		if err != nil {
			c.hangUp()
			return err
		}
	}
	return c.exchange(id)
}

func (l *load) tcp(c *client) error {
	if err := c.dial(l.site.raw, nil); err != nil {
		return err
	}
	return c.exchange(l.ids.Add(2))
}

// slow clients take their time: with the head, the body, or the response.
func (l *load) slow(c *client) error {
	if err := c.dial(l.site.web, nil); err != nil {
		return err
	}
	a := asked{id: l.ids.Add(2), size: 100, upload: -1}
	write, read := c.conn.(io.Writer), io.Reader(c.conn)
	switch c.random.IntN(3) {
	case 0:
		a.size = 300<<10 + c.random.IntN(700<<10)
		read = &slowly{r: c.conn, most: 32 << 10, pause: 40 * time.Millisecond}
	case 1:
		a.upload = 64 << 10
		write = &slowly{w: c.conn, most: 4 << 10, pause: 40 * time.Millisecond}
	default:
		write = &slowly{w: c.conn, most: 8, pause: 30 * time.Millisecond}
	}
	defer c.hangUp()
	if err := a.request(context.Background(), "http://soak", c.class, c.random).Write(io.MultiWriter(&c.said, write)); err != nil {
		return err
	}
	res, err := readFinal(bufio.NewReader(io.TeeReader(read, &c.heard)))
	if err != nil {
		return err
	}
	return a.check(res, c.buffer)
}

// slowly reads or writes little at a time.
type slowly struct {
	r     io.Reader
	w     io.Writer
	most  int
	pause time.Duration
}

func (s *slowly) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	return s.r.Read(p[:min(len(p), s.most)])
}

func (s *slowly) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		m := 0
		m, err = s.w.Write(p[:min(len(p), s.most)])
		n, p = n+m, p[m:]
		time.Sleep(s.pause)
	}
	return n, err
}

// abort goes away in the middle of something.
func (l *load) abort(c *client) error {
	defer c.hangUp()
	a := asked{id: l.ids.Add(2), size: 1 << 20, upload: -1}
	if c.random.IntN(4) == 0 {
		return l.cancel(c, a)
	}
	address := l.site.web
	if c.random.IntN(3) == 0 {
		address = l.site.tls // half a handshake, or none
	}
	if err := c.dial(address, nil); err != nil {
		return err
	}
	var wire strings.Builder
	if c.random.IntN(2) == 0 {
		a.upload = 200 << 10
	}
	a.request(context.Background(), "http://soak", c.class, c.random).Write(&wire)
	text := wire.String()
	if c.random.IntN(2) == 0 {
		text = text[:c.random.IntN(len(text))]
	}
	go io.WriteString(c.conn, text)
	c.conn.SetReadDeadline(time.Now().Add(time.Duration(c.random.IntN(50)) * time.Millisecond))
	io.CopyN(io.Discard, c.conn, int64(c.random.IntN(500<<10)))
	if c.random.IntN(2) == 0 {
		c.conn.(*net.TCPConn).SetLinger(0)
	}
	return nil // that it went well is for the others to tell
}

// cancel leaves a stream in the middle of its response.
func (l *load) cancel(c *client, a asked) error {
	c.h2 = &http.Client{Transport: &http.Transport{IdleConnTimeout: 2 * time.Second, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "soak"}}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.random.IntN(60))*time.Millisecond)
	defer cancel()
	res, err := c.h2.Do(a.request(ctx, "https://"+l.site.tls, c.class, c.random))
	if err != nil {
		return nil
	}
	io.CopyN(io.Discard, res.Body, int64(c.random.IntN(500<<10)))
	res.Body.Close()
	return nil
}
