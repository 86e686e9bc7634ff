package main

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// lines is an output that calls f for each line.
type lines struct {
	bytes.Buffer
	f func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.Buffer.Write(p)
	l.f(string(p))
	return len(p), nil
}

func TestEventsAreWatchedUntilInterrupted(t *testing.T) {
	n := newFakeNode("file")
	path := filepath.Join(t.TempDir(), "lbd.sock")
	stop, err := serve(path, n)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()

	watching, interrupt := context.WithCancel(t.Context())
	out := &lines{f: func(line string) {
		switch {
		case strings.Contains(line, "backend.down"):
			n.mu.Lock()
			n.events = append(n.events, admin.Event{Seq: 2, Event: lb.Event{Time: long, Kind: "backend.up", Subject: "app/10.0.1.1:8080"}})
			close(n.more)
			n.more = make(chan struct{})
			n.mu.Unlock()
		case strings.Contains(line, "backend.up"):
			interrupt()
		}
	}}
	code := run(watching, []string{"--addr", path, "events", "--watch"}, strings.NewReader(""), out, io.Discard)
	if code != exitOK || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("exit %d, printed\n%s", code, out.String())
	}
}

func TestStatusIsWatchedUntilInterrupted(t *testing.T) {
	n := newFakeNode("file")
	path := filepath.Join(t.TempDir(), "lbd.sock")
	stop, err := serve(path, n)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()

	watching, interrupt := context.WithCancel(t.Context())
	out := &lines{f: func(line string) {
		if strings.HasSuffix(line, "ok\n") {
			interrupt()
		}
	}}
	if code := run(watching, []string{"--addr", path, "status", "--watch"}, strings.NewReader(""), out, io.Discard); code != exitOK {
		t.Errorf("exit %d, printed\n%s", code, out.String())
	}
}
