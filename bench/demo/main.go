// Command demo is `make run`: three backends, lbd with the quickstart file in
// front of them, and what to try. Ctrl-C ends all of it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/cirque-lb/lb"
)

// readyTime is how long lbd may take to serve.
const readyTime = 20 * time.Second

func main() {
	lbd := flag.String("lbd", "bin/lbd", "the program")
	config := flag.String("config", "examples/quickstart.yaml", "its configuration")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *lbd, *config); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, lbd, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c, err := lb.Parse(text, lb.Options{File: file})
	if err != nil {
		return err
	}
	for _, p := range c.Pools {
		for _, b := range p.Backends {
			if err := backend(b.Address); err != nil {
				return err
			}
		}
	}
	cmd, ended, err := start(lbd, file)
	if err != nil {
		return err
	}
	if err := untilReady(ctx, c, ended); err != nil {
		return errors.Join(err, end(cmd, ended))
	}
	greet(c, lbd)
	select {
	case err := <-ended:
		return fmt.Errorf("lbd ended: %w", err)
	case <-ctx.Done():
		fmt.Println("\nending: lbd drains, then the backends go")
		return end(cmd, ended)
	}
}

// backend serves one demo backend in this process.
func backend(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("start a demo backend: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", address)
		fmt.Fprintf(w, "hello from backend %s: %s %s\n", address, r.Method, r.URL)
	})
	go http.Serve(l, mux) // until the process ends
	return nil
}

// start starts lbd. It is in a group of its own, so that Ctrl-C reaches it once,
// through us, and ends with us should we be killed.
func start(lbd, file string) (*exec.Cmd, <-chan error, error) {
	cmd := exec.Command(lbd, "run", "-c", file)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the signal comes when the thread that starts it ends
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, nil, fmt.Errorf("start lbd: %w (make build makes it)", err)
	}
	return cmd, ended, nil
}

func end(cmd *exec.Cmd, ended <-chan error) error {
	if cmd.Process.Signal(syscall.SIGTERM) != nil {
		return nil // it has ended
	}
	return <-ended
}

// untilReady asks for readiness, which is when traffic may come.
func untilReady(ctx context.Context, c *lb.Config, ended <-chan error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	over := time.After(readyTime)
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("lbd did not start: %w", err)
		case <-over:
			return fmt.Errorf("lbd was not ready within %v", readyTime)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		r, err := admin(c).Get("http://lbd/readyz")
		if err != nil {
			continue
		}
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// admin is a client of lbd's admin socket.
func admin(c *lb.Config) *http.Client {
	return &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Admin.Socket)
		},
	}}
}

func greet(c *lb.Config, lbd string) {
	url := "http://127.0.0.1:8080/"
	if len(c.Listeners) > 0 {
		url = fmt.Sprintf("http://127.0.0.1:%d/", c.Listeners[0].Bind.Port())
	}
	fmt.Printf(`
lbd serves %s

  curl -i %s
  %sctl status
  %sctl backend list

%s
Ctrl-C ends everything.

`, url, url, lbctl(lbd), lbctl(lbd), fastpath(c))
}

// lbctl is lbd's path without its last letter: lbctl stands beside it.
func lbctl(lbd string) string { return lbd[:len(lbd)-1] }

// fastpath says in one line how packets are steered.
func fastpath(c *lb.Config) string {
	const unknown = "Fast path: unknown; lbctl status says more."
	r, err := admin(c).Get("http://lbd/v1/status")
	if err != nil {
		return unknown
	}
	defer r.Body.Close()
	var status struct {
		Fastpath struct {
			Mode   string `json:"mode"`
			Reason string `json:"reason"`
		} `json:"fastpath"`
	}
	if json.NewDecoder(r.Body).Decode(&status) != nil || status.Fastpath.Mode == "" {
		return unknown
	}
	line := "Fast path: " + status.Fastpath.Mode
	if status.Fastpath.Reason != "" {
		line += " (" + status.Fastpath.Reason + ")"
	}
	if status.Fastpath.Mode == "off" {
		line += ". The proxy works all the same; the kernel spreads connections."
	}
	return line
}
