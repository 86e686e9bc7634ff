package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // in golden files
	testscript.Main(m, map[string]func(){"lbctl": main})
}

// TestLbctl runs the transcripts against an admin server in this process that
// has a fake node behind it.
func TestLbctl(t *testing.T) {
	now = func() time.Time { return long.Add(3*time.Hour + 20*time.Minute) }
	t.Cleanup(func() { now = time.Now }) // after the scripts, which run in parallel
	var nodes sync.Map                   // of *fakeNode, by a script's work directory
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("LBCTL_ADDR", filepath.Join(e.WorkDir, "lbd.sock"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": func(ts *testscript.TestScript, _ bool, args []string) {
				n := newFakeNode(args[0])
				nodes.Store(ts.Getenv("WORK"), n)
				stop, err := serve(ts.Getenv("LBCTL_ADDR"), n)
				ts.Check(err)
				n.end = sync.OnceFunc(stop)
				ts.Defer(n.end)
			},
			"tell": func(ts *testscript.TestScript, _ bool, args []string) {
				n, ok := nodes.Load(ts.Getenv("WORK"))
				if !ok {
					ts.Fatalf("tell comes after serve")
				}
				tell(ts, n.(*fakeNode), args)
			},
			"status": exits,
		},
	})
}

// serve answers on an admin socket until stop.
func serve(path string, n admin.Control) (stop func(), err error) {
	l, err := admin.Listen(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		admin.Serve(ctx, l, n, admin.Options{Log: slog.New(slog.DiscardHandler)})
	}()
	return func() { cancel(); <-done }, nil
}

func tell(ts *testscript.TestScript, n *fakeNode, args []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch args[0] {
	case "problem":
		n.status.Problems = append(n.status.Problems, admin.Problem{Subject: args[1], Text: args[2], Do: args[3]})
	case "drains": // how many questions until it is empty
		n.drains, _ = strconv.Atoi(args[1])
	case "leaves": // the next order to leave ends the server
		n.leave = func() { go n.end() } // the answer comes first
	case "worker": // one more, in a state
		n.status.Workers = append(n.status.Workers, admin.Worker{Name: "0.0", PID: 4000, State: args[1], Since: time.Time{}})
	default:
		ts.Fatalf("tell has no %q", args[0])
	}
}

// exits runs lbctl in this process and wants an exit code: status CODE ARGS…
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := runScripted(ts, args[1:])
	if code != want {
		ts.Fatalf("lbctl %v: exit %d, want %d", args[1:], code, want)
	}
}

func runScripted(ts *testscript.TestScript, args []string) int {
	return run(context.Background(), scripted(ts, args), os.Stdin, ts.Stdout(), ts.Stderr())
}

// scripted are the arguments as the script means them: relative files are its own.
func scripted(ts *testscript.TestScript, args []string) []string {
	args = append([]string{"--addr", ts.Getenv("LBCTL_ADDR")}, args...)
	for i, a := range args {
		if _, err := os.Stat(ts.MkAbs(a)); err == nil && filepath.Ext(a) == ".yaml" {
			args[i] = ts.MkAbs(a)
		}
	}
	return args
}
