package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// site is a directory with a configuration, lbd that runs by it, and a backend.
type site struct {
	dir, lbd      string
	web, tls, raw int // ports
	backend       net.Listener
	out           tail
	admin         *http.Client
}

// kind is a way in which a program is broken.
type kind struct{ name, script string }

var broken = []kind{
	{"exits at once", "exit 1"},
	{"hangs", `[ "$1" = trial ] && exec sleep 60`},
	{"refuses the configuration", `[ "$1" = trial ] && { echo "lbd.yaml:1:1: no" >&2; exit 3; }`},
	{"speaks another version", `[ "$1" = trial ] && { echo '{"version":"next","handover":99,"control":99}'; exit 0; }`},
	{"dies while it takes over", `[ "$1" = run ] && kill -9 $$`},
}

func newSite(lbd string) (*site, error) {
	dir, err := os.MkdirTemp("", "lbd-chaos")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir, lbd: filepath.Join(dir, "lbd")}
	s.admin = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "run", "lbd.sock"))
		}}}
	program, err := os.ReadFile(lbd)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // workers are nobody
		return nil, err
	}
	if err := os.WriteFile(s.lbd, program, 0o755); err != nil {
		return nil, err
	}
	if s.backend, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go serveBackend(s.backend)
	for _, port := range []*int{&s.web, &s.tls, &s.raw} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*port = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	if err := writeCertificate(dir); err != nil {
		return nil, err
	}
	return s, s.configure(0)
}

func (s *site) file() string { return filepath.Join(s.dir, "lbd.yaml") }

func (s *site) configure(n int) error {
	text := fmt.Sprintf(`
node: { name: chaos, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 2 }
fastpath: { mode: "off" }
log: { access: "off" }
drain: { timeout: 10s }
listeners:
  web: { bind: "127.0.0.1:%[2]d" }
  tls: { bind: "127.0.0.1:%[3]d", protocol: https, tls: { certificates: [{ cert: %[1]s/cert.pem, key: %[1]s/key.pem }] } }
  raw: { bind: "127.0.0.1:%[4]d", protocol: tcp, pool: app }
routes:
  - match: { path: /generation-%[5]d }
    respond: { status: 410 }
  - pool: app
pools:
  app: { backends: [%[6]q], connections: { per_backend: 100000 } }
`, s.dir, s.web, s.tls, s.raw, n, s.backend.Addr())
	return os.WriteFile(s.file(), []byte(text), 0o644)
}

// start runs a supervisor; workers that run are adopted.
func (s *site) start() error {
	c := exec.Command(s.lbd, "run", "-c", s.file())
	c.Stdout, c.Stderr = &s.out, &s.out
	if err := c.Start(); err != nil {
		return err
	}
	go c.Wait()
	return s.settle()
}

type worker struct {
	PID   int    `json:"pid"`
	State string `json:"state"`
}

func (s *site) workers() ([]worker, error) {
	r, err := s.admin.Get("http://lbd/v1/status")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var status struct{ Workers []worker }
	return status.Workers, json.NewDecoder(r.Body).Decode(&status)
}

const settleTime = 30 * time.Second

// settle waits until two workers are ready and none drains.
func (s *site) settle() error {
	var all []worker
	var err error
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if all, err = s.workers(); err == nil && len(all) == 2 && all[0].State == "ready" && all[1].State == "ready" {
			return nil
		}
	}
	return fmt.Errorf("not two ready workers within %v but %v (%v)", settleTime, all, err)
}

func (s *site) order(path, body string) error {
	r, err := s.admin.Post("http://lbd"+path, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	if r.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", r.Status, text)
	}
	return nil
}

func (s *site) upgrade(binary string) error {
	return s.order("/v1/upgrade", fmt.Sprintf(`{"binary":%q}`, binary))
}

// refuse upgrades to a broken program: it is refused, or somebody else goes on.
func (s *site) refuse(k kind) error {
	path := filepath.Join(s.dir, "broken")
	text := "#!/bin/sh\n" + k.script + "\nexec " + s.lbd + " \"$@\"\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		return err
	}
	err := s.upgrade(path)
	if k.name == "dies while it takes over" {
		return err
	}
	if err == nil {
		return fmt.Errorf("it was not refused")
	}
	return nil
}

func (s *site) killWorker(n int, excuse func()) error {
	all, err := s.workers()
	if err != nil {
		return err
	}
	excuse()
	victim := all[n%len(all)].PID
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		return err
	}
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		all, err = s.workers()
		if err == nil && len(all) == 2 && all[0].PID != victim && all[1].PID != victim {
			excuse()
			return nil
		}
	}
	return fmt.Errorf("worker %d is not replaced: %v", victim, all)
}

// supervisor is the pid of who supervises now.
func (s *site) supervisor() (pid int) {
	text, _ := os.ReadFile(filepath.Join(s.dir, "run", "lock"))
	fmt.Sscan(string(text), &pid)
	return pid
}

// killSupervisor kills it and starts another.
func (s *site) killSupervisor() error {
	pid := s.supervisor()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for end := time.Now().Add(settleTime); syscall.Kill(pid, 0) == nil && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return s.start()
}

func (s *site) reload(n int) error {
	if err := s.configure(n); err != nil {
		return err
	}
	return syscall.Kill(s.supervisor(), syscall.SIGHUP)
}

// close ends lbd and what is left of it.
func (s *site) close() {
	all, _ := s.workers()
	if pid := s.supervisor(); pid > 1 {
		syscall.Kill(pid, syscall.SIGTERM)
		time.Sleep(100 * time.Millisecond)
		syscall.Kill(pid, syscall.SIGTERM)
	}
	time.Sleep(time.Second)
	for _, w := range all {
		syscall.Kill(w.PID, syscall.SIGKILL)
	}
	s.backend.Close()
	os.RemoveAll(s.dir)
}

// tail keeps the last of what lbd says.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 2*tailSize {
		t.text = bytes.Clone(t.text[len(t.text)-tailSize:])
	}
	return len(p), nil
}

func (s *site) tail() string {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return string(s.out.text[max(0, len(s.out.text)-4000):])
}
