package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// The test binary is also the worker's program, and a supervisor that can be
// killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "worker":
			os.Exit(testChild().Main(os.Args[2:]))
		case "supervise":
			os.Exit(supervise(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

// testChild is a worker whose proxy is an echo. The environment makes it bad.
func testChild() Child {
	c := Child{Version: "test", Parse: parse, New: func(s Start) (Server, error) { return newEcho(s), nil }}
	switch os.Getenv("LBD_TEST_WORKER") {
	case "exit":
		fmt.Fprintln(os.Stderr, "this program is broken")
		os.Exit(3)
	case "hang":
		time.Sleep(time.Hour) // select {} alone is a deadlock to the runtime, which would exit
	case "refuse":
		c.Parse = func(file string, _ []byte) (*lb.Config, error) {
			return nil, lb.Errors{{Code: "LB9999", File: file, Line: 1, Column: 1, Message: "this program knows better"}}
		}
	case "foreign":
		c.protocol = 99
	}
	return c
}

func parse(file string, document []byte) (*lb.Config, error) {
	return lb.Parse(document, lb.Options{File: file})
}

// echo is the least proxy: it answers each line with who it is. A line "hold"
// is a request that takes until the connection ends.
type echo struct {
	Start
	generation atomic.Uint64
	lines      atomic.Int64
	tickets    atomic.Value
	files      atomic.Int64 // bytes
	open       sync.WaitGroup
	drain      chan struct{}
	done       chan struct{}

	mu   sync.Mutex
	stop map[int]acceptor // by listening descriptor
}

func newEcho(s Start) *echo {
	e := &echo{Start: s, stop: map[int]acceptor{}, drain: make(chan struct{}), done: make(chan struct{})}
	e.tickets.Store("")
	return e
}

func (e *echo) Prepare(generation uint64, c *lb.Config, files map[string][]byte) (func(), error) {
	size := 0
	for _, text := range files {
		size += len(text)
	}
	return func() { e.generation.Store(generation); e.files.Store(int64(size)) }, nil
}

func (e *echo) SetTicketKeys(keys [][32]byte) error {
	e.tickets.Store(fmt.Sprintf("%x of %d", keys[0], len(keys)))
	return nil
}

func (e *echo) SetState(lb.State)             {}
func (e *echo) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (e *echo) Done() <-chan struct{}         { return e.done }

func (e *echo) Beats() []time.Time {
	beats := make([]time.Time, e.Threads)
	for i := range beats {
		beats[i] = time.Now()
	}
	return beats
}

func (e *echo) Stats() lb.Stats {
	return lb.Stats{Samples: []lb.Sample{{Name: "lines", Value: float64(e.lines.Load())}}}
}

func (e *echo) Refused() []lb.Refusal { return nil }

func (e *echo) Accept(_ int, listener string, fd int) error {
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		return errors.Join(errors.New("a blocking socket"), err)
	}
	stop := acceptor{make(chan struct{}), make(chan struct{})}
	e.mu.Lock()
	e.stop[fd] = stop
	e.mu.Unlock()
	go e.accept(listener, fd, stop)
	return nil
}

type acceptor struct{ stop, stopped chan struct{} }

func (e *echo) accept(listener string, fd int, a acceptor) {
	defer close(a.stopped)
	defer unix.Close(fd)
	for {
		select {
		case <-a.stop:
			return
		default:
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(ready, 20); n == 0 {
			continue
		}
		if c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK); err == nil {
			f := os.NewFile(uintptr(c), "client")
			e.open.Go(func() { e.talk(listener, f) })
		}
	}
}

type answer struct {
	PID        int    `json:"pid"`
	Worker     string `json:"worker"`
	UID        int    `json:"uid"`
	Listener   string `json:"listener"`
	Generation uint64 `json:"generation"`
	Tickets    string `json:"tickets"` // the first key, and how many
	Files      int64  `json:"files"`   // bytes
}

func (e *echo) talk(listener string, f *os.File) {
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		e.lines.Add(1)
		text, _ := json.Marshal(answer{os.Getpid(), e.Name, os.Getuid(), listener, e.generation.Load(), e.tickets.Load().(string), e.files.Load()})
		f.Write(append(text, '\n'))
		if lines.Text() == "panic" {
			panic("as it was told")
		}
		select {
		case <-e.drain:
			if lines.Text() != "hold" {
				return
			}
		default:
		}
	}
}

func (e *echo) StopAccept(_ string, fd int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.stop[fd].stop)
	<-e.stop[fd].stopped
	delete(e.stop, fd)
}

func (e *echo) Drain(deadline time.Time) {
	close(e.drain)
	e.mu.Lock()
	open := slices.Collect(maps.Keys(e.stop))
	e.mu.Unlock()
	for _, fd := range open {
		e.StopAccept("", fd)
	}
	go func() { e.open.Wait(); close(e.done) }()
}

// supervise runs a fleet until it is killed: it prints the crew after every
// change.
func supervise(runDir, document string) int {
	f, err := OpenFleet(context.Background(), testOptions(runDir, io.Discard))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	u := update(1, document)
	if a := f.Adopted(); a != nil {
		u.Generation = a.Generation
	}
	if err := f.Apply(context.Background(), u); err != nil {
		fmt.Println(err)
		return 1
	}
	out := json.NewEncoder(os.Stdout)
	for {
		out.Encode(report{f.Crew(), bound(f), f.Stats()})
		<-f.Changed()
	}
}

type report struct {
	Crew  []WorkerInfo
	Bound map[string]string
	Stats lb.Stats
}

func testOptions(runDir string, log io.Writer) Options {
	binary, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Options{
		RunDir: runDir, Binary: binary, Version: "test", Parse: parse, ReadyTimeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}
}

func update(generation uint64, document string) Update {
	c, err := parse("test.yaml", []byte(document))
	if err != nil {
		panic(err)
	}
	return Update{Generation: generation, File: "test.yaml", Document: []byte(document), Config: c}
}

// documentOn is a configuration of 2 workers with 2 threads that listens on
// the given ports of 127.0.0.1, as listeners a, b, …
func documentOn(ports ...int) string {
	text := "workers: {processes: 2, threads: 2}\nlog: {access: off}\nlisteners:\n"
	for i, port := range ports {
		text += fmt.Sprintf("  %c: { bind: \"127.0.0.1:%d\" }\n", 'a'+i, port)
	}
	return text + "routes:\n  - pool: p\npools:\n  p: { backends: [\"127.0.0.1:1\"] }\n"
}

// freePort is one that the kernel gives to nobody by itself: one of those could
// be taken by any connection before the fleet listens.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func bound(f *Fleet) map[string]string {
	out := map[string]string{}
	for i, s := range f.Sockets() {
		out[string(rune('a'+i))] = s.Bind.String()
	}
	return out
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run")
}

func testLog() io.Writer {
	if testing.Verbose() {
		return os.Stderr
	}
	return io.Discard
}

// openFleet opens a fleet that ends with the test.
func openFleet(t *testing.T, dir string) *Fleet {
	t.Helper()
	f, err := OpenFleet(t.Context(), testOptions(dir, testLog()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := f.Shutdown(ctx); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

func apply(t *testing.T, f *Fleet, u Update) {
	t.Helper()
	if err := f.Apply(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

// started is a fleet that serves one port.
func started(t *testing.T) (*Fleet, string) {
	t.Helper()
	port := freePort(t)
	f := openFleet(t, shortDir(t))
	apply(t, f, update(1, documentOn(port)))
	return f, fmt.Sprintf("127.0.0.1:%d", port)
}

// client is a connection to an echo.
type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) say(line string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.conn, line); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) hear() answer {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		c.t.Fatal(err)
	}
	return a
}

func ask(t *testing.T, addr string) answer {
	t.Helper()
	c := dial(t, addr)
	defer c.conn.Close()
	c.say("hello")
	return c.hear()
}

// until waits for a state of real processes, which no fake clock moves.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}

func pids(crew []WorkerInfo) []int {
	var out []int
	for _, w := range crew {
		out = append(out, w.PID)
	}
	return out
}
