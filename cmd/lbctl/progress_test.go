package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// slowNode takes its time for what a node takes its time for.
type slowNode struct{ *fakeNode }

func slowly() { time.Sleep(2 * quietFor) }

func (n slowNode) Apply(ctx context.Context, text []byte, file string, a admin.Ask) (admin.Applied, error) {
	slowly()
	return n.fakeNode.Apply(ctx, text, file, a)
}

func (n slowNode) Adopt(ctx context.Context, a admin.Ask) (admin.Applied, error) {
	slowly()
	return n.fakeNode.Adopt(ctx, a)
}

func (n slowNode) Release(ctx context.Context, o admin.ReleaseOrder, a admin.Ask) (admin.Applied, error) {
	slowly()
	return n.fakeNode.Release(ctx, o, a)
}

func (n slowNode) Rollback(ctx context.Context, o admin.RollbackOrder, a admin.Ask) (admin.Applied, error) {
	slowly()
	return n.fakeNode.Rollback(ctx, o, a)
}

func (n slowNode) Reload(ctx context.Context, a admin.Ask) (admin.Applied, error) {
	slowly()
	return n.fakeNode.Reload(ctx, a)
}

func (n slowNode) EditBackend(ctx context.Context, e admin.BackendEdit, a admin.Ask) (admin.Applied, error) {
	slowly()
	return n.fakeNode.EditBackend(ctx, e, a)
}

func (n slowNode) Upgrade(ctx context.Context, o admin.UpgradeOrder, a admin.Ask) error {
	slowly()
	n.mu.Lock()
	n.status.Workers = append(n.status.Workers, admin.Worker{Name: "0.0", PID: 4000, State: "draining"})
	n.mu.Unlock()
	time.AfterFunc(2*quietFor, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.status.Workers = n.status.Workers[:1]
	})
	return n.fakeNode.Upgrade(ctx, o, a)
}

func (n slowNode) OrderListener(ctx context.Context, o admin.ListenerOrder, a admin.Ask) error {
	err := n.fakeNode.OrderListener(ctx, o, a)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Listeners[0].Drain = "draining"
	time.AfterFunc(2*quietFor, func() { n.fakeNode.OrderListener(ctx, o, a) })
	return err
}

// Whoever waits in front of a terminal sees for what, and for how long; the line
// is gone when the verdict comes.
func TestWaitsShowTheirProgressOnATerminal(t *testing.T) {
	document, err := filepath.Abs(filepath.Join("testdata", "document.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, progress, verdict string }{
		{"config apply -f " + document, "the workers build it (", "Generation 43@edge-1 runs"},
		{"config adopt", "the workers build it (", "Generation 43@edge-1 runs"},
		{"config release --discard", "the workers build it (", "Generation 43@edge-1 runs"},
		{"config rollback 41@edge-1", "the workers build it (", "Generation 43@edge-1 runs"},
		{"config reload", "the workers build it (", "42@edge-1"},
		{"backend remove app/10.0.1.1:8080", "the workers build it (", "Generation 43@edge-1 runs"},
		{"backend drain app/10.0.1.1:8080 --wait", "app/10.0.1.1:8080: 3 requests in progress (", "app/10.0.1.1:8080 is empty"},
		{"listener drain web --wait", "web: 12 connections open (", "web is closed"},
		{"node drain --wait", "edge-1: 12 connections open (", "edge-1 is empty"},
		{"node leave --wait", "edge-1: 12 connections open (", "edge-1 has left"},
		{"upgrade", "the new workers start (", "the new workers serve; the old ones drain"},
		{"upgrade --wait", "1 worker of the old crew drain", "the new workers serve; the old ones are gone"},
	} {
		t.Run(c.command, func(t *testing.T) {
			t.Parallel()
			n := newFakeNode("document")
			n.drains = 8
			socket := filepath.Join(t.TempDir(), "lbd.sock")
			leaves := make(chan struct{}, 1)
			n.leave = func() { leaves <- struct{}{} }
			stop, err := serve(socket, slowNode{n})
			if err != nil {
				t.Fatal(err)
			}
			stop = sync.OnceFunc(stop)
			t.Cleanup(stop)
			shell := exec.Command("sh", "-c", fmt.Sprintf("lbctl --addr %s %s; echo exit $?", socket, c.command))
			shell.Env = append(os.Environ(), "TERM=xterm")
			w := onTerminal(t, 100, 20, shell)
			w.until(c.progress, func(text string) bool { return strings.Contains(text, c.progress) })
			if strings.HasPrefix(c.command, "node leave") {
				<-leaves
				stop()
			}
			w.until("the verdict", func(text string) bool {
				return strings.Contains(text, c.verdict) && strings.Contains(text, "exit 0") && !strings.Contains(text, c.progress)
			})
		})
	}
}
