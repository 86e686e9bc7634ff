package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/filter"
)

// The test binary is also lbd: it runs as supervisor and, from there, as worker.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"run", "worker", "trial", "guard", "validate", "version", "detach", "agent", "bogus"}, os.Args[1]) {
		failSyncs()
		skewClock()
		Main("", offered())
		return
	}
	os.Exit(m.Run())
}

// panicEnv makes lbd offer a filter that has a goroutine panic.
const panicEnv = "LBD_TEST_PANIC"

// offered are the stock filters and, when asked for, one whose goroutine panics,
// where nobody recovers it.
func offered() map[string]l7.Builder {
	all := maps.Clone(filter.All)
	if os.Getenv(panicEnv) != "" {
		all["burst"] = func(lb.Node) (l7.Filter, error) {
			return l7.Filter{Name: "burst", Request: func(*l7.Session) (*l7.Response, error) { go burst(); return nil, nil }}, nil
		}
	}
	return all
}

func burst() {
	time.Sleep(100 * time.Millisecond) // the request is with its backend by then
	panic("as it was told")
}

// site is a directory with a configuration, and what runs by it.
type site struct {
	t    *testing.T
	dir  string
	port int
	pool []string
	out  *safeBuffer

	enter       []string // a command that runs what follows it elsewhere
	environment []string // besides our own
	uid         uint32   // who lbd is; 0: who we are
	binary      string   // what lbd is; "": we
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "lbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, dir: dir, port: freePort(t), out: &safeBuffer{}}
	for i := range 2 {
		b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/never" {
				<-r.Context().Done()
			}
			fmt.Fprintf(w, "backend %d\n", i)
		}))
		t.Cleanup(b.Close)
		s.pool = append(s.pool, b.Listener.Addr().String())
	}
	s.configure("")
	t.Cleanup(func() { s.killSupervisors(); s.killWorkers() })
	return s
}

// freePort is one that the kernel gives to nobody by itself: one of those could
// be taken by any connection before lbd listens.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func (s *site) file() string   { return filepath.Join(s.dir, "lbd.yaml") }
func (s *site) socket() string { return filepath.Join(s.dir, "run", "lbd.sock") }
func (s *site) url() string    { return fmt.Sprintf("http://127.0.0.1:%d/", s.port) }

// configure writes the file; more is a route that comes first.
func (s *site) configure(more string) {
	s.t.Helper()
	text := fmt.Sprintf(`
node: { name: test, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 2 }
fastpath: { mode: "off" }
log: { access: "off" }
drain: { timeout: 5s }
listeners:
  web: { bind: "127.0.0.1:%[2]d" }
routes:
%[3]s
  - pool: app
pools:
  app: { backends: [%[4]q, %[5]q] }
`, s.dir, s.port, more, s.pool[0], s.pool[1])
	if err := os.WriteFile(s.file(), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// command is lbd with what it says kept.
func (s *site) command(args ...string) *exec.Cmd {
	binary, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	if s.binary != "" {
		binary = s.binary
	}
	all := slices.Concat(s.enter, []string{binary}, args)
	c := exec.Command(all[0], all[1:]...)
	c.Stdout, c.Stderr = s.out, s.out
	c.Env = append(os.Environ(), s.environment...)
	if s.uid != 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.uid, Gid: s.uid}}
	}
	return c
}

// start runs lbd and returns when it is ready.
func (s *site) start() *exec.Cmd {
	s.t.Helper()
	c := s.command("run", "-c", s.file())
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	s.t.Cleanup(func() {
		c.Process.Kill()
		if s.t.Failed() {
			s.t.Log(s.out.String())
		}
	})
	s.until("ready", func() bool {
		select {
		case err := <-ended:
			s.t.Fatalf("lbd ended: %v\n%s", err, s.out.String())
		default:
		}
		return s.ready()
	})
	return c
}

func (s *site) ready() bool {
	r, err := s.admin().Get("http://lbd/readyz")
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

func (s *site) admin() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket())
	}}}
}

type workerStatus struct {
	Name        string `json:"name"`
	PID         int    `json:"pid"`
	State       string `json:"state"`
	Connections int
	Adopted     bool `json:"adopted"`
}

func (s *site) workers() []workerStatus {
	r, err := s.admin().Get("http://lbd/v1/status")
	if err != nil {
		return nil
	}
	defer r.Body.Close()
	var status struct{ Workers []workerStatus }
	if err := json.NewDecoder(r.Body).Decode(&status); err != nil {
		s.t.Fatal(err)
	}
	return status.Workers
}

func (s *site) pids() []int {
	var out []int
	for _, w := range s.workers() {
		out = append(out, w.PID)
	}
	return out
}

// killSupervisors ends whoever runs by our file: not always who was started, and
// maybe a guard that would start another.
func (s *site) killSupervisors() {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		text, _ := os.ReadFile(path)
		var pid int
		fmt.Sscanf(path, "/proc/%d/", &pid)
		if pid > 1 && pid != os.Getpid() && bytes.Contains(text, []byte("\x00"+s.file()+"\x00")) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// killWorkers ends whoever serves a worker's socket in our run_dir: those that a
// killed supervisor left, too.
func (s *site) killWorkers() {
	sockets, _ := filepath.Glob(filepath.Join(s.dir, "run", "*"))
	for _, path := range sockets {
		c, err := net.Dial("unix", path)
		if err != nil {
			continue
		}
		raw, _ := c.(*net.UnixConn).SyscallConn()
		raw.Control(func(fd uintptr) {
			peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
			if err != nil {
				return
			}
			cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", peer.Pid))
			if bytes.Contains(cmd, []byte("worker\x00--crew")) {
				syscall.Kill(int(peer.Pid), syscall.SIGKILL)
			}
		})
		c.Close()
	}
}

func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	s.t.Fatalf("not within 30 s: %s\n%s", what, s.out.String())
}

// load asks all the time, on kept connections and on new ones, and counts.
type load struct {
	stop         chan struct{}
	clients      sync.WaitGroup
	sent, failed atomic.Int64
	refused      atomic.Int64 // of failed: not even connected
	mu           sync.Mutex
	first        error
}

func (s *site) load(clients int) *load { return s.loadOver(clients, nil) }

// loadOver is load over TLS, unless config is nil.
func (s *site) loadOver(clients int, config *tls.Config) *load {
	url := s.url()
	if config != nil {
		url = strings.Replace(url, "http:", "https:", 1)
	}
	return newLoad(clients, config, url)
}

// loadAt is a client's load at a path.
func (s *site) loadAt(path string) *load { return newLoad(1, nil, s.url()+path) }

func newLoad(clients int, config *tls.Config, url string) *load {
	l := &load{stop: make(chan struct{})}
	for i := range clients {
		l.clients.Go(func() {
			t := &http.Transport{DisableKeepAlives: i%2 == 0, TLSClientConfig: config}
			defer t.CloseIdleConnections()
			for {
				select {
				case <-l.stop:
					return
				default:
					l.once(&http.Client{Transport: t, Timeout: 10 * time.Second}, url)
				}
			}
		})
	}
	return l
}

func (l *load) once(c *http.Client, url string) {
	l.sent.Add(1)
	r, err := c.Get(url)
	if err == nil {
		var body []byte
		body, err = io.ReadAll(r.Body)
		r.Body.Close()
		if err == nil && (r.StatusCode != 200 || !strings.HasPrefix(string(body), "backend")) {
			err = fmt.Errorf("%s: %q", r.Status, body)
		}
	}
	if err != nil {
		l.failed.Add(1)
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
			l.refused.Add(1)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.first == nil {
			l.first = err
		}
	}
}

func (l *load) end() {
	close(l.stop)
	l.clients.Wait()
}

// endUnfailed ends it and wants every request to have been answered well.
func (l *load) endUnfailed(t *testing.T) {
	t.Helper()
	l.end()
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d requests failed; the first: %v", l.failed.Load(), l.sent.Load(), l.first)
	}
	t.Logf("%d requests, %d failed", l.sent.Load(), l.failed.Load())
}

func TestNothingIsLostByReloadsUpgradesAndARestartOfTheSupervisor(t *testing.T) {
	s := newSite(t)
	c := s.start()
	l := s.load(4)

	for range 3 {
		var old []int
		s.until("a crew serves", func() bool { old = s.pids(); return len(old) >= 2 })
		c.Process.Signal(syscall.SIGUSR2)
		s.until("another crew serves", func() bool {
			now := s.pids()
			return len(now) >= 2 && !slices.Contains(now[:2], old[0]) && !slices.Contains(now[:2], old[1])
		})
	}
	s.configure("  - match: { path: /gone }\n    respond: { status: 410 }")
	c.Process.Signal(syscall.SIGHUP)
	s.until("the new route answers", func() bool {
		r, err := http.Get(s.url() + "gone")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode == http.StatusGone
	})
	s.until("old crews are gone", func() bool { return len(s.pids()) == 2 })

	crew := s.pids()
	c.Process.Kill()
	sent := l.sent.Load()
	s.until("workers serve without a supervisor", func() bool { return l.sent.Load() > sent+50 })
	c = s.start()
	if got := s.workers(); len(got) != 2 || got[0].PID != crew[0] || got[1].PID != crew[1] || !got[0].Adopted {
		t.Errorf("workers %+v after the restart, want %v adopted", got, crew)
	}
	l.endUnfailed(t)

	began := time.Now()
	c.Process.Signal(syscall.SIGTERM)
	s.until("the port is free", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	s.until("no worker is left", func() bool {
		left, _ := filepath.Glob(filepath.Join(s.dir, "run", "*.sock"))
		return len(left) == 0
	})
	t.Logf("ended in %v", time.Since(began).Round(time.Millisecond))
}

func TestUSR1MovesTheAccessLogOfAllWorkers(t *testing.T) {
	s := newSite(t)
	text, _ := os.ReadFile(s.file())
	log := filepath.Join(s.dir, "access.log")
	os.WriteFile(s.file(), bytes.Replace(text, []byte(`access: "off"`), []byte("access: "+log), 1), 0o644)
	c := s.start()
	written := func() bool {
		t := &http.Transport{DisableKeepAlives: true}
		r, err := (&http.Client{Transport: t}).Get(s.url())
		if err == nil {
			r.Body.Close()
		}
		i, err := os.Stat(log)
		return err == nil && i.Size() > 0
	}
	s.until("requests are logged", written)
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	c.Process.Signal(syscall.SIGUSR1)
	s.until("requests are logged in a new file", written)
}

func TestASecondTERMEndsLbdNow(t *testing.T) {
	s := newSite(t)
	text, _ := os.ReadFile(s.file())
	os.WriteFile(s.file(), bytes.Replace(text, []byte("timeout: 5s"), []byte("timeout: 1h"), 1), 0o644)
	c := s.start()
	go http.Get(s.url() + "never") // ends with the worker
	s.until("a request is under way", func() bool {
		r, err := s.admin().Get("http://lbd/v1/status")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		var status struct{ Requests int }
		json.NewDecoder(r.Body).Decode(&status)
		return status.Requests > 0
	})
	c.Process.Signal(syscall.SIGTERM)
	s.until("new connections are refused", func() bool {
		conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.url(), "http://"), "/"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if left, _ := filepath.Glob(filepath.Join(s.dir, "run", "worker-*.sock")); len(left) == 0 {
		t.Error("the worker did not wait for its request")
	}
	c.Process.Signal(syscall.SIGTERM)
	s.until("nothing is left", func() bool {
		left, _ := filepath.Glob(filepath.Join(s.dir, "run", "*.sock"))
		return len(left) == 0
	})
}

func TestASecondLbdOnTheSameRunDirIsRefused(t *testing.T) {
	s := newSite(t)
	s.start()
	c := s.command("run", "-c", s.file())
	var out bytes.Buffer
	c.Stderr = &out
	if err := c.Run(); err == nil {
		t.Fatal("it runs")
	}
	if c.ProcessState.ExitCode() != exitConflict || !strings.Contains(out.String(), "another lbd (pid ") {
		t.Errorf("exit %d, it says %q", c.ProcessState.ExitCode(), out.String())
	}
	if r, err := http.Get(s.url()); err != nil || r.StatusCode != 200 {
		t.Errorf("the first one answers %v, %v", r, err)
	}
}

func TestABusyPortIsNamedAndNothingIsLeftBehind(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := s.command("run", "-c", s.file())
	var out bytes.Buffer
	c.Stderr = &out
	c.Run()
	if c.ProcessState.ExitCode() != exitError || !strings.Contains(out.String(), fmt.Sprintf("listener web: bind 127.0.0.1:%d: in use by", s.port)) {
		t.Errorf("exit %d, it says %s", c.ProcessState.ExitCode(), out.String())
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "run", "*.sock")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestABadReloadLeavesTheRunningConfiguration(t *testing.T) {
	s := newSite(t)
	c := s.start()
	s.configure("  - pool: ap")
	c.Process.Signal(syscall.SIGHUP)
	s.until("it is refused with the nearest name", func() bool { return strings.Contains(s.out.String(), `did you mean "app"?`) })
	if r, err := http.Get(s.url()); err != nil || r.StatusCode != 200 {
		t.Errorf("the running configuration answers %v, %v", r, err)
	}
}

func TestExitCodes(t *testing.T) {
	s := newSite(t)
	good := s.file()
	bad := filepath.Join(s.dir, "bad.yaml")
	os.WriteFile(bad, []byte("listeners: 7\nrouts: []\n"), 0o644)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"validate", "-c", good}, 0, "ok"},
		{[]string{"validate", "-c", bad}, exitConfig, "2 errors."},
		{[]string{"run", "-c", bad}, exitConfig, "2 errors."},
		{[]string{"validate", "-c", bad + "x"}, exitError, "no such file"},
		{[]string{"validate", "--schema"}, 0, "{"},
		{[]string{"validate", "--nope"}, exitUsage, "unknown flag"},
		{[]string{"bogus"}, exitUsage, "unknown command"},
		{[]string{"version"}, 0, "lbd"},
		{[]string{"worker"}, exitUsage, "lbd run"},
	} {
		cmd := s.command(c.args...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.Run()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("lbd %s: exit %d, says %s; want %d and %q", strings.Join(c.args, " "), cmd.ProcessState.ExitCode(), out.String(), c.code, c.says)
		}
	}
}

// safeBuffer is written by processes and read by tests.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// What no request is, is counted; a few are kept for people to look at.
func TestMalformedRequestsOfAllWorkersAreShown(t *testing.T) {
	s := newSite(t)
	s.start()
	for range 8 { // enough for every worker
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
		io.Copy(io.Discard, c)
		c.Close()
	}
	all, err := admin.Dial(s.socket()).Refused(t.Context())
	if err != nil || len(all) != 8 {
		t.Fatalf("got %d, %v", len(all), err)
	}
	for i, r := range all {
		if r.Listener != "web" || r.Status != 400 || r.Head != `"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"` || i > 0 && r.Time.After(all[i-1].Time) {
			t.Errorf("got %+v", r)
		}
	}
}
