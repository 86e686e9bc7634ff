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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errWrong   = errors.New("wrong")
	errRefused = errors.New("refused") // an honest 5xx of lbd
)

// load is all clients.
type load struct {
	site  *site
	seed  uint64
	ids   atomic.Uint64
	stop  chan struct{}
	work  sync.WaitGroup
	kinds []*kind
}

// kind is clients of one kind, and what became of their requests.
type kind struct {
	name                                string
	n                                   int
	calm                                bool // none may fail
	say                                 func(*load, *client) error
	sent, right, failed, refused, wrong atomic.Int64

	mu    sync.Mutex // guards first
	first error
}

// client is one of them, with what it keeps.
type client struct {
	random *rand.Rand
	buffer []byte
	conn   net.Conn
	r      *bufio.Reader
	uses   int
	h2     *http.Client
	class  string // calm or flaky
}

func newLoad(s *site, seed uint64) *load {
	l := &load{site: s, seed: seed, stop: make(chan struct{})}
	l.ids.Store(seed % 1e9 * 1e9)
	add := func(name string, n int, calm bool, say func(*load, *client) error) {
		l.kinds = append(l.kinds, &kind{name: name, n: n, calm: calm, say: say})
	}
	add("plain", 12, true, (*load).plain)
	add("tls", 6, true, (*load).secure)
	add("http2", 8, true, (*load).http2)
	add("websocket", 6, true, (*load).websocket)
	add("tcp", 4, true, (*load).tcp)
	add("slow", 12, true, (*load).slow)
	add("aborting", 8, true, (*load).abort)
	add("flaky plain", 8, false, (*load).plain)
	add("flaky http2", 6, false, (*load).http2)
	return l
}

// run is the load for a while; say is called now and then.
func (l *load) run(d time.Duration, say func(time.Duration)) {
	for i, k := range l.kinds {
		for j := range k.n {
			l.work.Go(func() { l.runClient(k, rand.New(rand.NewPCG(l.seed, uint64(i*1000+j)))) })
		}
	}
	began := time.Now()
	end, sample, reload := time.After(d), time.NewTicker(sampleEvery), time.NewTicker(reloadEvery)
	defer sample.Stop()
	defer reload.Stop()
	for n := 1; ; {
		select {
		case <-end:
			close(l.stop)
			l.work.Wait()
			return
		case <-sample.C:
			if say != nil {
				say(time.Since(began))
			}
		case <-reload.C:
			l.site.reload(n)
			n++
		}
	}
}

func (l *load) runClient(k *kind, random *rand.Rand) {
	c := &client{random: random, buffer: make([]byte, 32<<10), class: "flaky"}
	if k.calm {
		c.class = "calm"
	}
	defer c.hangUp()
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(time.Duration(5+random.IntN(60)) * time.Millisecond):
		}
		k.sent.Add(1)
		k.count(k.say(l, c))
	}
}

func (k *kind) count(err error) {
	switch {
	case err == nil:
		k.right.Add(1)
		return
	case errors.Is(err, errWrong):
		k.wrong.Add(1)
	case errors.Is(err, errRefused) && !k.calm:
		k.refused.Add(1)
		return
	case !k.calm:
		k.failed.Add(1)
		return
	default:
		k.failed.Add(1)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.first == nil {
		k.first = fmt.Errorf("%s: %w", time.Now().Format("15:04:05.000"), err)
	}
}

func (k *kind) bad() bool { return k.wrong.Load() > 0 || k.calm && k.failed.Load() > 0 }

func (l *load) good() bool {
	for _, k := range l.kinds {
		if k.bad() {
			return false
		}
	}
	return true
}

func (l *load) String() string {
	var right, wrong, calm, cut, refused int64
	for _, k := range l.kinds {
		right, wrong, refused = right+k.right.Load(), wrong+k.wrong.Load(), refused+k.refused.Load()
		if k.calm {
			calm += k.failed.Load()
		} else {
			cut += k.failed.Load()
		}
	}
	return fmt.Sprintf("%d right, %d wrong, %d failed (and by flapping backends %d refused, %d cut)", right, wrong, calm, refused, cut)
}

func (l *load) report(w io.Writer) {
	fmt.Fprintf(w, "%-12s %9s %9s %7s %8s %6s\n", "clients", "sent", "right", "failed", "refused", "wrong")
	for _, k := range l.kinds {
		fmt.Fprintf(w, "%-12s %9d %9d %7d %8d %6d\n", k.name, k.sent.Load(), k.right.Load(), k.failed.Load(), k.refused.Load(), k.wrong.Load())
		if k.first != nil {
			fmt.Fprintf(w, "  the first: %v\n", k.first)
		}
	}
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
	c.r = bufio.NewReader(c.conn)
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

// asked is a request: what belongs to it is told by its number.
type asked struct {
	id     uint64
	size   int
	upload int // -1: none
}

func (l *load) ask(c *client) asked {
	a := asked{id: l.ids.Add(2), size: c.size(), upload: -1}
	if c.random.IntN(2) == 0 {
		a.id++ // answered in chunks
	}
	if c.random.IntN(4) == 0 {
		a.upload = c.size()
	}
	return a
}

func (a asked) request(ctx context.Context, base, class string, random *rand.Rand) *http.Request {
	url := fmt.Sprintf("%s/%s/%d/%d", base, class, a.id, a.size)
	if a.upload < 0 {
		r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		return a.dress(r, random)
	}
	r, _ := http.NewRequestWithContext(ctx, "PUT", url, &pattern{id: a.id + 1, size: a.upload})
	if random.IntN(2) == 0 {
		r.ContentLength = int64(a.upload)
		if a.upload == 0 {
			r.Body = http.NoBody
		}
	}
	r.Header.Set("X-Upload", strconv.Itoa(a.upload))
	return a.dress(r, random)
}

func (a asked) dress(r *http.Request, random *rand.Rand) *http.Request {
	if random.IntN(5) == 0 {
		r.Header.Set("X-Pool", "h2")
	}
	return r
}

// check holds a response against its request.
func (a asked) check(res *http.Response, buffer []byte) error {
	defer res.Body.Close()
	if res.StatusCode != 200 {
		text, err := io.ReadAll(io.LimitReader(res.Body, 200))
		if err == nil && res.StatusCode >= 502 && res.StatusCode <= 504 && strings.HasPrefix(string(text), strconv.Itoa(res.StatusCode)) {
			return fmt.Errorf("%w: %s", errRefused, text)
		}
		return fmt.Errorf("%w: %s %q (%v)", errWrong, res.Status, text, err)
	}
	if got := res.Header.Get("X-Id"); got != strconv.FormatUint(a.id, 10) {
		return fmt.Errorf("%w: the answer to %s for %d", errWrong, got, a.id)
	}
	body := pattern{id: a.id, size: a.size}
	if err := body.check(res.Body, buffer); err != nil {
		return err
	}
	if end := res.Trailer.Get("X-End"); a.id%2 == 1 && end != strconv.FormatUint(a.id, 10) {
		return fmt.Errorf("%w: trailer %q for %d", errWrong, end, a.id)
	}
	return nil
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
		req := a.request(context.Background(), "https://"+l.site.tls, c.class, c.random)
		go func() {
			res, err := c.h2.Do(req)
			if err == nil {
				err = a.check(res, make([]byte, 16<<10))
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
	if err := a.request(context.Background(), "http://soak", c.class, c.random).Write(write); err != nil {
		return err
	}
	res, err := readFinal(bufio.NewReader(read))
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
