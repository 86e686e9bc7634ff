package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// topWorld is an lbd with a load in front of it and backends behind it that are well,
// slow, faulty and down.
func topWorld(t *testing.T) (lbctl, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lbctl-top-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // workers are somebody else
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", dir+"/", "github.com/cirque-lb/lb/cmd/lbd", "github.com/cirque-lb/lb/cmd/lbctl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	server := func(delay time.Duration, faults float64) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Duration(float64(delay) * (0.5 + rand.Float64())))
			if rand.Float64() < faults && r.URL.Path != "/healthz" {
				w.WriteHeader(http.StatusInternalServerError)
			}
			io.WriteString(w, strings.Repeat("x", 2000))
		}))
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	web, gone := free(), free()
	file := filepath.Join(dir, "lbd.yaml")
	text := fmt.Sprintf(`node: { name: edge-1, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 1, threads: 1 }
fastpath: { mode: "off" }
log: { access: "off" }
admin: { socket: %[1]s/run/lbd.sock }
listeners:
  web: { bind: "%[2]s" }
routes:
  - { match: { path: /api/ }, pool: api }
  - pool: shop
pools:
  shop: { balance: round_robin, check: { http: /healthz, interval: 200ms, fall: 2 }, backends: ["%[3]s", "%[4]s", "%[5]s"] }
  api: { check: { http: /healthz }, backends: ["%[6]s"] }
`, dir, web, server(time.Millisecond, 0), server(20*time.Millisecond, 0), gone, server(4*time.Millisecond, .1))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(filepath.Join(dir, "lbd"), "run", "-c", file)
	var log strings.Builder
	daemon.Stdout, daemon.Stderr = &log, &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	socket = filepath.Join(dir, "run", "lbd.sock")
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if s, err := admin.Dial(socket).Status(t.Context()); err == nil && s.State == "serving" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("lbd does not serve\n%s", log.String())
		}
	}
	var clients sync.WaitGroup
	t.Cleanup(clients.Wait)
	for i := range 6 {
		clients.Go(func() {
			for t.Context().Err() == nil { // ends before the cleanups
				if res, err := http.Get("http://" + web + []string{"/", "/api/", "/cart"}[i%3]); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return filepath.Join(dir, "lbctl"), socket
}

var rateOfAll = regexp.MustCompile(`serving .* (\d+(\.\d)?k?) req/s`)

// A person in front of a terminal sees the load, chooses a backend and is asked
// before it drains; then has the terminal back as it was.
func TestTopOnATerminal(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a build of lbd and starts processes")
	}
	lbctl, socket := topWorld(t)
	shell := exec.Command("sh", "-c", "echo before; "+lbctl+" --addr "+socket+" top --every 500ms; echo after $?; stty -a | grep -o ' -*icanon'")
	shell.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=", "LC_ALL=C.UTF-8")
	w := onTerminal(t, 110, 22, shell)
	w.until("rates, errors and a backend that is down", func(text string) bool {
		rate := rateOfAll.FindStringSubmatch(text)
		return rate != nil && rate[1] != "0" && strings.Contains(text, "shop/127.0.0.1:") && strings.Contains(text, " down ") && strings.Contains(text, "ms")
	})
	w.until("whose backend's errors they are", func(text string) bool {
		errors := regexp.MustCompile(`api/\S+ +up +\d+ +\d+ +\S+ +(\S+)`).FindStringSubmatch(text)
		return errors != nil && errors[1] != "0"
	})
	if os.Getenv("ARTEFACTS") != "" {
		time.Sleep(5 * time.Second) // for curves
	}
	w.picture("top")
	if other, cursor := w.taken(); !other || cursor {
		t.Errorf("on its own screen: %v, cursor: %v", other, cursor)
	}

	w.press("j")
	w.until("a backend is chosen", func(text string) bool { return strings.Contains(text, "\n> ") })
	w.press("d")
	w.until("it asks", func(text string) bool {
		return regexp.MustCompile(`drain \S+/127\.0\.0\.1:\d+\? y/n`).MatchString(text)
	})
	w.picture("top-drain")
	w.press("y")
	w.until("it drains", func(text string) bool { return strings.Contains(text, " drains") && strings.Contains(text, " drain") })
	w.press("u")
	w.until("it asks again", func(text string) bool { return strings.Contains(text, "undrain") && strings.Contains(text, "? y/n") })
	w.press("y")
	w.press("/api\r")
	w.until("only one backend", func(text string) bool {
		return strings.Contains(text, "/api hides 3 backends") && !strings.Contains(text, "shop/")
	})
	w.press("/\x7f\x7f\x7f\r")

	w.resize(64, 16)
	w.until("the picture has the new size", func(text string) bool {
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		return strings.HasPrefix(lines[0], "edge-1") && strings.HasPrefix(lines[15], "q quit")
	})
	w.picture("top-narrow")
	w.press("q")
	w.until("the shell is back", func(text string) bool { return strings.Contains(text, "after 0") && strings.Contains(text, "icanon") })
	text := w.text()
	if other, cursor := w.taken(); other || !cursor || strings.Contains(text, "-icanon") || strings.Contains(text, "req/s") {
		t.Errorf("own screen %v, cursor %v:\n%s", other, cursor, text)
	}
	if err := <-w.ended; err != nil {
		t.Error(err)
	}
}

// TestPictureOfTop looks at a node that runs, under whatever load it has: LIVE_SOCKET
// is its admin socket, ARTEFACTS where the picture goes.
func TestPictureOfTop(t *testing.T) {
	socket := os.Getenv("LIVE_SOCKET")
	if socket == "" {
		t.Skip("LIVE_SOCKET names no node")
	}
	w := onTerminal(t, 110, 24, exec.Command("lbctl", "--addr", socket, "top"))
	w.until("rates", func(text string) bool { return rateOfAll.MatchString(text) })
	time.Sleep(55 * time.Second) // for the curves
	w.picture("top")
	w.press("q")
	if err := <-w.ended; err != nil {
		t.Error(err)
	}
}
