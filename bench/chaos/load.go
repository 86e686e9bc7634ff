package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// load is all clients. Each checks what comes back and comes again when its
// connection ends.
type load struct {
	stop  chan struct{}
	once  sync.Once
	work  sync.WaitGroup
	kinds []*tally

	mu     sync.Mutex // guards killed
	killed map[uint16]time.Time
}

// tally counts one kind of clients.
type tally struct {
	name                                 string
	moves                                bool // an upgrade must not close its connections
	clients                              int64
	here                                 atomic.Int64 // connections that were made once
	sent, failed, excused, wrong, closed atomic.Int64

	mu    sync.Mutex // guards first
	first []error
}

// failures gets every one of them.
var failures io.Writer = io.Discard

// keptErrors is how many errors of a kind are shown.
const keptErrors = 5

func newLoad() *load { return &load{stop: make(chan struct{}), killed: map[uint16]time.Time{}} }

// shares of the rate.
const (
	sharePlain, shareTLS, shareH2, shareTunnel, shareTCP = 0.5, 0.1, 0.2, 0.1, 0.1
)

func (l *load) start(at ports, p plan) {
	pace := func(n int, share float64) time.Duration {
		return time.Duration(float64(max(n, 1)) / (share * p.rate) * float64(time.Second))
	}
	web, tls, raw := address(at.web), address(at.tls), address(at.raw)
	l.clients(tallyOf("keep-alive", true), p.plain, pace(p.plain, sharePlain), dialer{web, nil}, (*talk).ask)
	l.clients(tallyOf("tls", false), p.tls, pace(p.tls, shareTLS), dialer{tls, secured("http/1.1")}, (*talk).ask)
	l.clients(tallyOf("websocket", true), p.tunnels, pace(p.tunnels, shareTunnel), dialer{web, upgraded}, (*talk).echo)
	if at.raw > 0 {
		l.clients(tallyOf("tcp", true), p.tcp, pace(p.tcp, shareTCP), dialer{raw, nil}, (*talk).echo)
	}
	l.http2(tallyOf("http2", false), p.h2, p.streams, pace(p.h2*p.streams, shareH2), dialer{tls, secured("h2")}, askH2)
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func tallyOf(name string, moves bool) *tally { return &tally{name: name, moves: moves} }

func (l *load) add(t *tally, clients int) *tally {
	t.clients = int64(clients)
	l.kinds = append(l.kinds, t)
	return t
}

// await returns when every client has been connected once.
func (l *load) await() error {
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		missing := int64(0)
		for _, t := range l.kinds {
			missing += max(0, t.clients-t.here.Load())
		}
		if missing == 0 {
			return nil
		}
	}
	l.end()
	l.report(os.Stdout, settleTime)
	return errors.New("not all clients are connected")
}

// took says that a worker is about to be killed that holds the connections of
// these clients' ports.
func (l *load) took(held map[uint16]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for port := range held {
		l.killed[port] = time.Now()
	}
}

// line is a client's connection as the accounts know it.
type line struct {
	port   uint16
	opened time.Time // no later than the proxy could see it
}

func lineOf(c net.Conn, opened time.Time) line {
	return line{uint16(c.LocalAddr().(*net.TCPAddr).Port), opened}
}

func (l *load) excuses(n line) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.killed[n.port]
	return ok && n.opened.Before(at)
}

var (
	errLast  = errors.New("connection: close") // the answer came, and with it the wish to go
	errLeft  = errors.New("closed while idle")
	errDone  = errors.New("all is said") // by the client's wish
	errWrong = errors.New("something else came back")
)

// ended books the end of a connection or request, and why.
func (l *load) ended(t *tally, n line, err error) {
	switch {
	case l.excuses(n):
		t.excused.Add(1)
		return
	case errors.Is(err, errLast):
		t.closed.Add(1)
		return
	case errors.Is(err, errLeft):
		t.closed.Add(1)
		if !t.moves {
			return
		}
	case errors.Is(err, errWrong):
		t.wrong.Add(1)
	default:
		t.failed.Add(1)
	}
	err = fmt.Errorf("%s: port %d, open for %v: %w", time.Now().Format("15:04:05.000"), n.port, time.Since(n.opened).Round(time.Millisecond), err)
	fmt.Fprintln(failures, t.name, err)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.first) < keptErrors {
		t.first = append(t.first, err)
	}
}

// over waits, about as long as told, unless all is over.
func (l *load) over(about time.Duration) bool {
	select {
	case <-l.stop:
		return true
	case <-time.After(around(about)):
		return false
	}
}

func around(d time.Duration) time.Duration { return time.Duration(rand.Int64N(2*int64(d) + 1)) }

func (l *load) end() {
	l.once.Do(func() { close(l.stop) })
	l.work.Wait()
}

// total is the sum over all kinds.
type total struct{ sent, failed, wrong, closed, excused int64 }

func (l *load) sum() (s total) {
	for _, t := range l.kinds {
		s.sent += t.sent.Load()
		s.failed += t.failed.Load()
		s.wrong += t.wrong.Load()
		s.closed += t.closed.Load()
		s.excused += t.excused.Load()
	}
	return s
}

// report prints the result and whether it is what was promised.
func (l *load) report(w io.Writer, took time.Duration) bool {
	ok := true
	fmt.Fprintf(w, "\n%-12s %8s %9s %7s %6s %13s %14s  (%s)\n", "clients", "number", "sent", "failed", "wrong", "closed by it", "killed worker", took.Round(time.Second))
	for _, t := range l.kinds {
		fmt.Fprintf(w, "%-12s %8d %9d %7d %6d %13d %14d\n", t.name, t.clients, t.sent.Load(), t.failed.Load(), t.wrong.Load(), t.closed.Load(), t.excused.Load())
		for _, err := range t.first {
			fmt.Fprintf(w, "  %v\n", err)
		}
		ok = ok && t.failed.Load() == 0 && t.wrong.Load() == 0 && (!t.moves || t.closed.Load() == 0)
	}
	s := l.sum()
	fmt.Fprintf(w, "requests sent %d, failed %d, wrong %d, connections closed %d, of killed workers %d\n", s.sent, s.failed, s.wrong, s.closed, s.excused)
	return ok
}
