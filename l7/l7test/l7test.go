// Package l7test runs a proxy inside a test: a real one, on a loopback port, as
// a worker runs it. Who writes a filter tries it with this. What a request lent to
// a filter is overwritten when it ends: one that keeps it without a copy fails.
//
//	p := l7test.Start(t, map[string]l7.Builder{"mine": mine.New}, `
//	routes: [ { filters: [ mine: { greeting: hello } ], respond: { body: hi } } ]`)
//	res, err := http.Get(p.URL + "/path")
package l7test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// Proxy is a proxy that serves until the test ends.
type Proxy struct {
	*l7.Proxy
	Addr string // of the document's first listener
	URL  string // the same with http:// in front

	t       testing.TB
	filters map[string]l7.Builder
	files   map[string][]byte
}

// Start serves a document with these filters. One without listeners gets one of
// the name web. All addresses it binds are replaced by free loopback ports.
func Start(t testing.TB, filters map[string]l7.Builder, document string) *Proxy {
	t.Helper()
	return StartWithFiles(t, filters, nil, document)
}

// StartWithFiles is Start with the contents of the files that the document
// names.
func StartWithFiles(t testing.TB, filters map[string]l7.Builder, files map[string][]byte, document string) *Proxy {
	t.Helper()
	engine, err := l7.New(l7.Options{Threads: 1, Filters: filters, Log: slog.New(slog.DiscardHandler), Spoil: true})
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Proxy: engine, t: t, filters: filters, files: files}
	config := p.Configure(document)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := engine.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	for i, l := range config.Listeners {
		if addr := p.listen(l.Name); i == 0 {
			p.Addr, p.URL = addr, "http://"+addr
		}
	}
	return p
}

// Configure switches to another document; its listeners have the names of the
// first one's.
func (p *Proxy) Configure(document string) *lb.Config {
	p.t.Helper()
	if !strings.Contains("\n"+document, "\nlisteners:") {
		document = "listeners: { web: { bind: \"127.0.0.1:1\" } }\n" + strings.TrimLeft(document, "\n")
	}
	config, err := lb.Parse([]byte(document), lb.Options{Filters: l7.Check(p.filters)})
	if err != nil {
		p.t.Fatalf("%v\n%s", err, document)
	}
	s, err := p.Prepare(1, config, p.files)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Commit(s)
	return config
}

// listen makes the proxy accept on a free port.
func (p *Proxy) listen(listener string) (addr string) {
	p.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	fd := -1
	if e := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) }); e != nil || err != nil {
		p.t.Fatal(e, err)
	}
	if err := p.Accept(0, listener, fd); err != nil {
		p.t.Fatal(err)
	}
	return ln.Addr().String()
}
