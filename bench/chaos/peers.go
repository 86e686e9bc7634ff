package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is nginx or HAProxy, set up to do what lbd does, with the same time for
// old workers to drain.
type peer struct {
	*place
	name string
}

func newPeer(name string) (*peer, error) {
	if _, err := exec.LookPath(name); err != nil {
		return nil, err
	}
	p, err := newPlace()
	if err != nil {
		return nil, err
	}
	s := &peer{place: p, name: name}
	if name == "nginx" {
		p.at.raw = 0 // Debian's nginx-light has no TCP proxy
	}
	return s, s.configure(0)
}

const nginxText = `
worker_processes 2; pid {dir}/pid; error_log stderr crit; worker_shutdown_timeout 10s; worker_rlimit_nofile 20000;
events { worker_connections 10000; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream app { server {backend}; keepalive 64; }
  server {
    listen 127.0.0.1:{web} reuseport;
    listen 127.0.0.1:{tls} ssl http2 reuseport;
    ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/cert.key;
    location = /generation-{n} { return 410; }
    location / {
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }
  }
}
`

const haproxyText = `
global
  master-worker
  stats socket {dir}/sock mode 600 level admin expose-fd listeners
  pidfile {dir}/pid
  nbthread 2
  maxconn 9000
  hard-stop-after 10s
defaults
  mode http
  timeout client 75s
  timeout server 75s
  timeout connect 2s
  timeout tunnel 1h
  http-reuse always
  retries 1
  option redispatch
frontend web
  bind 127.0.0.1:{web}
  bind 127.0.0.1:{tls} ssl crt {dir}/cert.both alpn h2,http/1.1
  http-request return status 410 if { path /generation-{n} }
  default_backend app
backend app
  server one {backend}
listen raw
  mode tcp
  bind 127.0.0.1:{raw}
  server one {backend}
`

func (s *peer) file() string { return filepath.Join(s.dir, s.name+".conf") }

func (s *peer) configure(n int) error {
	text := map[string]string{"nginx": nginxText, "haproxy": haproxyText}[s.name]
	text = strings.NewReplacer("{dir}", s.dir, "{web}", strconv.Itoa(s.at.web), "{tls}", strconv.Itoa(s.at.tls),
		"{raw}", strconv.Itoa(s.at.raw), "{backend}", s.backend.Addr().String(), "{n}", strconv.Itoa(n)).Replace(text)
	return os.WriteFile(s.file(), []byte(text), 0o644)
}

func (s *peer) start() error {
	args := []string{"-W", "-f", s.file()}
	if s.name == "nginx" {
		args = []string{"-p", s.dir, "-c", s.file()} // it becomes a daemon: else there is no binary upgrade
	}
	path, err := exec.LookPath(s.name)
	if err != nil {
		return err
	}
	c := exec.Command(path, args...) // nginx executes its next program by this path
	c.Stdout, c.Stderr = &s.out, &s.out
	if err := c.Start(); err != nil {
		return err
	}
	go c.Wait()
	return s.settle()
}

// pid is of the master that runs now.
func (s *peer) pid() (pid int) {
	text, _ := os.ReadFile(filepath.Join(s.dir, "pid"))
	fmt.Sscan(string(text), &pid)
	return pid
}

// crew is how many workers there are when nobody drains.
func (s *peer) crew() int {
	if s.name == "nginx" {
		return 2
	}
	return 1
}

func (s *peer) settle() error {
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if pid := s.pid(); pid > 0 && len(children(pid)) == s.crew() {
			return nil
		}
	}
	return fmt.Errorf("not %d workers within %v but %v", s.crew(), settleTime, children(s.pid()))
}

// events are what the peer's manual says for an upgrade and a reload. A worker
// of HAProxy's takes the master with it by default: it is not killed.
func (s *peer) events(p plan, random *rand.Rand, l *load) []event {
	var all []event
	for range p.reloads {
		n := random.IntN(1000)
		all = append(all, event{"reload", func() error { return s.reload(n) }})
	}
	if s.name == "haproxy" {
		for range p.upgrades {
			all = append(all, event{"reload, which executes the program again", func() error { return s.reload(0) }})
		}
		return all
	}
	for range p.upgrades {
		all = append(all, event{"upgrade", s.upgradeNginx})
	}
	for range p.kills {
		n := random.IntN(2)
		all = append(all, event{"kill a worker", func() error { return l.kill(children(s.pid())[n]) }})
	}
	return all
}

// reload waits until the new workers are there; settle, until the old ones are
// gone.
func (s *peer) reload(n int) error {
	if err := s.configure(n); err != nil {
		return err
	}
	signal := syscall.SIGHUP
	if s.name == "haproxy" {
		signal = syscall.SIGUSR2
	}
	if err := syscall.Kill(s.pid(), signal); err != nil {
		return err
	}
	return s.await("new workers", func() bool { return len(children(s.pid())) > s.crew() })
}

// await also returns when the moment was too short to see.
func (s *peer) await(what string, ok func() bool) error {
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return nil
		}
	}
	fmt.Printf("        no %s seen within 3 s\n", what)
	return nil
}

// upgradeNginx is the way of its manual: USR2, WINCH, QUIT.
func (s *peer) upgradeNginx() error {
	old := s.pid()
	if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
		return err
	}
	next := 0
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if next = s.pid(); next > 0 && next != old && len(children(next)) == s.crew() {
			break
		}
	}
	if next == old {
		return errors.New("no second master")
	}
	if err := syscall.Kill(old, syscall.SIGWINCH); err != nil {
		return err
	}
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if all := children(old); len(all) == 0 || len(all) == 1 && all[0] == next {
			break
		}
	}
	if err := syscall.Kill(old, syscall.SIGQUIT); err != nil {
		return err
	}
	for end := time.Now().Add(settleTime); time.Now().Before(end) && alive(old); {
		time.Sleep(10 * time.Millisecond) // until it is gone, nginx refuses the next
	}
	return nil
}

// alive: somebody else may be slow to wait for who has ended.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, ok := strings.Cut(string(text), ") ")
	return err == nil && ok && state[0] != 'Z'
}

func (s *peer) close() { s.leave() }
