package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
	"github.com/cirque-lb/lb/l7/certtest"
)

// site is lbd, its directory and its backends.
type site struct {
	dir           string
	web, tls, raw string // addresses
	backends      []any  // of the document, in its order
	cmd           *exec.Cmd
	gone          chan struct{}
	admin         *http.Client
	stops         []func()
	keep          bool // the directory, with the access log
	book          book
}

const document = `
node: { name: soak, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 2 }
fastpath: { mode: "off" }
log: { level: error, access: %[1]s/access.log }
listeners:
  web: { bind: %[2]q }
  tls: { bind: %[3]q, protocol: https, tls: { certificates: [{ cert: %[1]s/cert.pem, key: %[1]s/cert.key }] } }
  raw: { bind: %[4]q, protocol: tcp, pool: echo }
routes:
  - { match: { path: /generation-%[5]d }, respond: { status: 410 } }
  - { match: { path: /calm/, header: { x-pool: h2 } }, pool: h2 }
  - { match: { path: /calm/ }, pool: calm, filters: [ headers: { response: { set: { x-edge: "1" } } } ] }
  - { match: { path: /flaky/, header: { x-pool: h2 } }, pool: flaky-h2, timeout: { request: 3s, idle: 3s } }
  - { match: { path: /flaky/ }, pool: flaky, timeout: { request: 3s, idle: 3s } }
pools:
  calm: { backends: [%[6]q, %[7]q], balance: least_request, connections: { idle_timeout: 2s, max_age: 10s } }
  h2: { backends: [%[6]q, %[7]q], protocol: http2, connections: { idle_timeout: 2s, max_age: 10s } }
  echo: { backends: [%[9]q] }
  flaky: { backends: [%[6]q, %[8]q], connections: { idle_timeout: 2s, connect_timeout: 500ms }, check: { http: /healthz, interval: 250ms, timeout: 250ms, rise: 1, fall: 2 }, outlier: { consecutive_5xx: 5, eject: 1s, max_ejected: 50%% } }
  flaky-h2: { backends: [%[7]q, %[8]q], protocol: http2, connections: { idle_timeout: 2s, connect_timeout: 500ms }, check: { tcp: true, interval: 250ms, timeout: 250ms, rise: 1, fall: 2 } }
`

func start(lbd string, seed uint64) (s *site, err error) {
	dir, err := os.MkdirTemp("", "lbd-soak")
	if err != nil {
		return nil, err
	}
	s = &site{dir: dir, web: rig.FreeAddr(), tls: rig.FreeAddr(), raw: rig.FreeAddr(), gone: make(chan struct{})}
	s.stops = append(s.stops, func() {
		if !s.keep {
			os.RemoveAll(dir)
		}
	})
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	s.admin = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "run", "lbd.sock"))
		}}}
	if err := errors.Join(os.Chmod(dir, 0o755), certtest.SelfSigned(24*time.Hour, "soak").Write(dir, "cert"), s.startBackends(seed), s.configure(0)); err != nil {
		return nil, err
	}
	s.cmd = exec.Command(lbd, "run", "-c", s.file())
	s.cmd.Stdout, s.cmd.Stderr = os.Stderr, os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its workers end with it
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.cmd.Wait(); close(s.gone) }()
	return s, s.ready()
}

func (s *site) startBackends(seed uint64) error {
	for _, name := range []string{"a", "b"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s.stops = append(s.stops, startOrigin(ln, &s.book, name))
		s.backends = append(s.backends, ln.Addr().String())
	}
	f, err := newFlaky(seed)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, startOrigin(f, &s.book, "flaky"), func() { f.Close() })
	addr, stop, err := startEcho()
	if err != nil {
		return err
	}
	s.stops = append(s.stops, stop)
	s.backends = append(s.backends, f.Addr().String(), addr)
	return nil
}

func (s *site) file() string { return filepath.Join(s.dir, "lbd.yaml") }

// configure writes a document; each n is another.
func (s *site) configure(n int) error {
	return os.WriteFile(s.file(), fmt.Appendf(nil, document, append([]any{s.dir, s.web, s.tls, s.raw, n}, s.backends...)...), 0o644)
}

func (s *site) reload(n int) error {
	if err := s.configure(n); err != nil {
		return err
	}
	return s.cmd.Process.Signal(syscall.SIGHUP)
}

func (s *site) ready() error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r, err := s.admin.Get("http://lbd/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == 200 {
				return nil
			}
		}
		if s.ended() {
			return errors.New("lbd ended")
		}
	}
	return errors.New("lbd is not ready within 20 s")
}

func (s *site) ended() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

func (s *site) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
		<-s.gone
		kill.Stop()
		syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	}
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

// rest waits until nobody is connected and idle connections to backends have
// gone, and measures.
func (s *site) rest() (m measured, err error) {
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if m = s.measure(); m.connections == 0 {
			time.Sleep(12 * time.Second) // HTTP/2 to backends ends by age; the heap is given back
			return s.measure(), nil
		}
	}
	return m, fmt.Errorf("%d clients are still connected a minute after they left", m.connections)
}
