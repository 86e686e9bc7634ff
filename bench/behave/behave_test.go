package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/bench/rig"
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
	backend, err := startOriginH2()
	if err != nil {
		t.Fatal(err)
	}
	defer backend.ln.Close()
	calls, err := startOriginGRPC()
	if err != nil {
		t.Fatal(err)
	}
	defer calls.ln.Close()
	hangs, release, err := hangingAddr()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	secure, err := startTLS()
	if err != nil {
		t.Fatal(err)
	}
	defer secure.close()
	secure.secure, secure.mutual, secure.proxied = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	w := &world{origin: o, second: true, headTimeout: 10 * time.Second, backendH2: backend, backendGRPC: calls, tls: secure}
	addrs, drain := startProxy(t, strings.NewReplacer(append(secure.pairs(), "{origin}", o.ln.Addr().String(), "{dead}", rig.FreeAddr(),
		"{hangs}", hangs, "{mute}", mute.Addr().String(), "{backendh2}", backend.ln.Addr().String(), "{backendgrpc}", calls.addr(), "{port}", "0")...).Replace(labDocument))
	w.proxy, w.drain = addrs["web"], drain
	secure.secure, secure.mutual, secure.proxied = addrs["secure"], addrs["mutual"], addrs["proxied"]
	w.h2 = w.proxy
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

// startProxy runs a proxy and returns its listeners' addresses and what makes it
// drain.
func startProxy(t *testing.T, document string) (map[string]string, func() error) {
	t.Helper()
	config, err := lb.Parse([]byte(document), lb.Options{Filters: filter.Check()})
	if err != nil {
		t.Fatal(err)
	}
	files, err := config.ReadFiles(lb.FileOptions{Read: os.ReadFile})
	if err != nil {
		t.Fatal(err)
	}
	p, err := l7.New(l7.Options{Threads: 1, Filters: filter.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Prepare(1, config, files)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(s)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	addrs := map[string]string{}
	for _, l := range config.Listeners {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if err := p.Accept(0, l.Name, duplicate(t, ln)); err != nil {
			t.Fatal(err)
		}
		addrs[l.Name] = ln.Addr().String()
	}
	return addrs, func() error { p.Drain(time.Now().Add(5 * time.Second)); return nil }
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
