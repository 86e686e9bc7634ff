package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
	"github.com/cirque-lb/lb/l7/certtest"
)

// place is a directory, ports and a backend: what every subject needs.
type place struct {
	dir     string
	at      ports
	backend net.Listener
	out     tail
}

func newPlace() (*place, error) {
	dir, err := os.MkdirTemp("", "lbd-chaos")
	if err != nil {
		return nil, err
	}
	p := &place{dir: dir}
	if err := os.Chmod(dir, 0o755); err != nil { // workers are nobody
		return nil, err
	}
	if p.backend, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go serveBackend(p.backend)
	for _, port := range []*int{&p.at.web, &p.at.tls, &p.at.raw} {
		if *port, err = freePort(); err != nil {
			return nil, err
		}
	}
	return p, certtest.SelfSigned(24*time.Hour, "chaos").Write(dir, "cert")
}

// freePort is below those that connections get, which the load makes many of.
func freePort() (int, error) {
	for range 100 {
		port := 10000 + rand.IntN(20000)
		if l, err := net.Listen("tcp", address(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port")
}

func (p *place) ports() ports { return p.at }

// leave ends all that runs by the files of the place, whoever started it.
func (p *place) leave() {
	running := map[int]bool{}
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		for _, pid := range p.processes() {
			running[pid] = true
		}
		maps.DeleteFunc(running, func(pid int, _ bool) bool { return !alive(pid) })
		if len(running) == 0 || time.Now().After(end) {
			break
		}
		for pid := range running {
			syscall.Kill(pid, syscall.SIGTERM) // the second is "at once" to lbd
		}
	}
	for pid := range running {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	p.backend.Close()
	os.RemoveAll(p.dir)
}

// processes are those whose arguments name the directory, with their children.
func (p *place) processes() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		if args, _ := os.ReadFile(file); bytes.Contains(args, []byte(p.dir)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, rig.Family(pid)...)
		}
	}
	return pids
}

// site is lbd that runs by a configuration.
type site struct {
	*place
	lbd   string
	grpc  net.Listener // a backend
	admin *http.Client
}

// kind is a way in which a program is broken. served: it is seen only when it
// has begun to take over.
type kind struct {
	name, script string
	served       bool
}

var broken = []kind{
	{"exits at once", "exit 1", false},
	{"hangs", `[ "$1" = trial ] && exec sleep 60`, false},
	{"refuses the configuration", `[ "$1" = trial ] && { echo "lbd.yaml:1:1: no" >&2; exit 3; }`, false},
	{"speaks another version", `[ "$1" = trial ] && { echo '{"version":"next","handover":99,"control":99}'; exit 0; }`, false},
	{"dies while it takes over", `[ "$1" = run ] && kill -9 $$`, true},
}

func newSite(lbd string) (*site, error) {
	p, err := newPlace()
	if err != nil {
		return nil, err
	}
	s := &site{place: p, lbd: filepath.Join(p.dir, "lbd")}
	s.admin = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(p.dir, "run", "lbd.sock"))
		}}}
	program, err := os.ReadFile(lbd)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.lbd, program, 0o755); err != nil {
		return nil, err
	}
	if s.grpc, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go serveGRPC(s.grpc)
	return s, s.configure(0)
}

// events has every fifth upgrade be to a broken program, or to one whose worker
// dies while connections come to it.
func (s *site) events(p plan, random *rand.Rand, l *load) []event {
	var all []event
	for i := range p.upgrades {
		switch n := i / 5 % (len(broken) + 1); {
		case i%5 < 4:
			all = append(all, event{"upgrade", func() error { return s.upgrade(s.lbd) }})
		case n < len(broken):
			all = append(all, event{"upgrade to what " + broken[n].name, func() error { return s.refuse(broken[n]) }})
		default:
			all = append(all, event{"upgrade to what dies half way", func() error { return s.dieHalfWay(l) }})
		}
	}
	for range p.kills {
		n := random.IntN(2)
		all = append(all, event{"kill a worker", func() error { return s.killWorker(n, l) }})
	}
	for range p.supervisors {
		all = append(all, event{"kill the supervisor", s.killSupervisor})
	}
	for range p.reloads {
		n := random.IntN(1000)
		all = append(all, event{"reload", func() error { return s.reload(n) }})
	}
	return all
}

func (s *site) file() string { return filepath.Join(s.dir, "lbd.yaml") }

func (s *site) configure(n int) error {
	text := fmt.Sprintf(`
node: { name: chaos, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 2 }
fastpath: { mode: "off" }
log: { access: "off" }
drain: { timeout: 30s }
listeners:
  web: { bind: "127.0.0.1:%[2]d" }
  tls: { bind: "127.0.0.1:%[3]d", protocol: https, tls: { certificates: [{ cert: %[1]s/cert.pem, key: %[1]s/cert.key }] } }
  raw: { bind: "127.0.0.1:%[4]d", protocol: tcp, pool: app }
routes:
  - match: { path: /generation-%[5]d }
    respond: { status: 410 }
  - match: { path: /chaos.Echo/ }
    pool: grpc
  - pool: app
pools:
  grpc: { protocol: grpc, backends: [%[7]q] }
  app: { backends: [%[6]q], connections: { per_backend: 100000 } }
`, s.dir, s.at.web, s.at.tls, s.at.raw, n, s.backend.Addr(), s.grpc.Addr())
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

const settleTime = 60 * time.Second

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
	if k.served {
		return err
	}
	if err == nil {
		return fmt.Errorf("it was not refused")
	}
	return nil
}

// enough connections are with a new worker when it dies.
const enough = 10

// dieHalfWay kills the first new worker of an upgrade while connections come to
// it.
func (s *site) dieHalfWay(l *load) error {
	boss := s.supervisor()
	before := children(boss)
	upgraded := make(chan error, 1)
	go func() { upgraded <- s.upgrade(s.lbd) }()
	for end := time.Now().Add(settleTime); time.Now().Before(end); {
		for _, pid := range children(boss) {
			cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if slices.Contains(before, pid) || !bytes.Contains(cmd, []byte("\x00worker\x00")) {
				continue
			}
			if ports, _ := held(pid); len(ports) < enough {
				continue
			}
			return errors.Join(l.kill(pid), <-upgraded)
		}
		select {
		case err := <-upgraded:
			return err // nothing moved for us to see
		case <-time.After(time.Millisecond):
		}
	}
	return errors.New("no connection came to a new worker")
}

func (s *site) killWorker(n int, l *load) error {
	all, err := s.workers()
	if err != nil {
		return err
	}
	victim := all[n%len(all)].PID
	if err := l.kill(victim); err != nil {
		return err
	}
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		all, err = s.workers()
		if err == nil && len(all) == 2 && all[0].PID != victim && all[1].PID != victim {
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
	return s.order("/v1/config/reload", "")
}

func (s *site) close() {
	s.leave()
	s.grpc.Close()
}

// tail keeps the last of what lbd says.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

const tailSize = 16 << 10

// said gets all of it.
var said io.Writer = io.Discard

func (t *tail) Write(p []byte) (int, error) {
	said.Write(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 2*tailSize {
		t.text = bytes.Clone(t.text[len(t.text)-tailSize:])
	}
	return len(p), nil
}

func (s *place) tail() string {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return string(s.out.text[max(0, len(s.out.text)-4000):])
}
