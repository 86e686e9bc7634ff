package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/filter"
)

// TestBehaviours holds the proxy of this repository to each behaviour's first
// outcome.
func TestBehaviours(t *testing.T) {
	o, err := startOrigin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer o.ln.Close()
	w := &world{origin: o, second: true, headTimeout: 10 * time.Second}
	w.proxy = startProxy(t, fmt.Sprintf(`
listeners: { web: { bind: "127.0.0.1:1" } }
routes:
  - { match: { path: /two/ }, pool: two }
  - { match: { path: /none/ }, pool: none }
  - { match: { path: /hang/ }, pool: hang }
  - { match: { path: /both/ }, pool: both }
  - { match: { path: /slow/ }, timeout: { request: 500ms }, pool: app }
  - pool: app
pools:
  app: { backends: [%[1]q] }
  two: { backends: [%[2]q, %[1]q] }
  both: { backends: [%[3]q, %[1]q], connections: { connect_timeout: 300ms } }
  none: { backends: [%[2]q] }
  hang: { backends: [%[3]q], connections: { connect_timeout: 300ms } }
`, o.ln.Addr().String(), freeAddr(), hangingAddr(t)))
	for _, b := range all() {
		t.Run(b.name, func(t *testing.T) {
			if b.slow && testing.Short() {
				t.Skip("waits for a time-out")
			}
			if got := w.run(&b); b.met(got) != 0 {
				t.Errorf("got %q, want %q", got, b.want[0])
			}
		})
	}
}

// startProxy runs a proxy and returns its address.
func startProxy(t *testing.T, document string) string {
	t.Helper()
	config, err := lb.Parse([]byte(document), lb.Options{Filters: filter.Check()})
	if err != nil {
		t.Fatal(err)
	}
	p, err := l7.New(l7.Options{Threads: 1, Filters: filter.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Prepare(1, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(s)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := p.Accept(0, "web", duplicate(t, ln)); err != nil {
		t.Fatal(err)
	}
	return ln.Addr().String()
}

func duplicate(t *testing.T, ln net.Listener) (fd int) {
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// hangingAddr is the address of a socket whose accept queue is full: a SYN to
// it is never answered.
func hangingAddr(t *testing.T) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 4 {
		c, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
		if err != nil {
			break
		}
		t.Cleanup(func() { c.Close() })
	}
	return addr
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"200", "200", true}, {"200", "2000", false}, {"4* close", "400 close", true}, {"a*a", "a", false}, {"502*", "502", true},
	} {
		if matches(c.pattern, c.s) != c.want {
			t.Errorf("%q and %q", c.pattern, c.s)
		}
	}
}
