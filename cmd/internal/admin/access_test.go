package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// everything asks a server for each method of each path that there is, and a
// few that are not, and gives the answers.
func everything(t *testing.T, dial func(context.Context, string, string) (net.Conn, error)) map[string]int {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	answers := map[string]int{}
	paths := []string{"/", "/metrics", "/healthz", "/readyz", "//v1/config", "/v1/../v1/config/reload", "/debug/pprof/", "/v1"}
	for _, e := range (&api{control: newFake()}).endpoints() {
		paths = append(paths, e.path)
	}
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"} {
			r, err := http.NewRequestWithContext(t.Context(), method, "http://lbd"+path, strings.NewReader(bodies[method+" "+path]))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-HTTP-Method-Override", "PUT")
			res, err := c.Do(r)
			if err != nil {
				continue // CONNECT is no request of ours
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			answers[method+" "+path] = res.StatusCode
		}
	}
	return answers
}

// started runs a server until the test ends.
func started(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func TestNoTCPAddressCanChangeAnything(t *testing.T) {
	f := newFake()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started(t, func(ctx context.Context) error { return ServeHTTP(ctx, l, f) })
	answers := everything(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	})
	for _, path := range []string{"/", "/metrics", "/healthz", "/readyz"} {
		if answers["GET "+path] != http.StatusOK {
			t.Errorf("GET %s: %d", path, answers["GET "+path])
		}
		delete(answers, "GET "+path)
		delete(answers, "HEAD "+path)
	}
	for request, status := range answers {
		if status < 400 {
			t.Errorf("%s over TCP: %d", request, status)
		}
	}
	if calls := f.asked(); calls != nil {
		t.Errorf("the node was asked to change: %v", calls)
	}
}

func TestTheReadOnlySocketShowsWhatEverybodyMaySee(t *testing.T) {
	f := newFake()
	path := filepath.Join(t.TempDir(), "ro.sock")
	l, err := ListenReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o666 {
		t.Errorf("the socket's mode is %v (%v), want 0666", i.Mode(), err)
	}
	started(t, func(ctx context.Context) error {
		return ServeReadOnly(ctx, l, f, Options{Log: slog.New(slog.DiscardHandler)})
	})
	answers := everything(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
	for _, e := range (&api{control: f}).endpoints() {
		got := answers[e.method+" "+e.path]
		if e.access == anybody && got != http.StatusOK {
			t.Errorf("%s %s: %d, want 200", e.method, e.path, got)
		}
		if e.access != anybody && got != http.StatusMethodNotAllowed && got != http.StatusNotFound {
			t.Errorf("%s %s: %d, want it refused", e.method, e.path, got)
		}
	}
	if calls := f.asked(); calls != nil {
		t.Errorf("the node was asked to change: %v", calls)
	}
	_, err = Dial(path).Reload(t.Context(), Ask{})
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != CodeReadOnly {
		t.Errorf("a change: %v, want %s", err, CodeReadOnly)
	}
	if _, err := Dial(path).Document(t.Context(), ""); err == nil {
		t.Error("it shows the document")
	}
	if s, err := Dial(path).Status(t.Context()); err != nil || s.Node != "edge-1" {
		t.Errorf("status: %v %v", s, err)
	}
}
