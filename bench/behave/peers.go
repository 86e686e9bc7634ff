package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// peer is a proxy that we start ourselves.
type peer struct {
	name    string
	command func(dir, config string) *exec.Cmd
	config  string // with %[1]s the port to serve and %[2]s the origin
	head    time.Duration
}

var peers = []peer{
	{"lbd", func(dir, config string) *exec.Cmd { return exec.Command("bin/lbd", "run", "-c", config) }, `
node: { data_dir: %[3]s/data, run_dir: %[3]s/run }
workers: { processes: 1, threads: 1 }
fastpath: { mode: off }
log: { level: error, access: off }
listeners: { web: { bind: "127.0.0.1:%[1]s" } }
routes: [ { pool: app } ]
pools: { app: { backends: ["%[2]s"] } }
`, 10 * time.Second},
	{"nginx", func(dir, config string) *exec.Cmd { return exec.Command("nginx", "-p", dir, "-c", config) }, `
daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events { }
http {
  access_log off; client_header_timeout 3s; client_body_timeout 3s;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream app { server %[2]s; keepalive 16; }
  server {
    listen 127.0.0.1:%[1]s;
    location / {
      proxy_pass http://app; proxy_http_version 1.1;
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }
  }
}
`, 3 * time.Second},
	{"haproxy", func(dir, config string) *exec.Cmd { return exec.Command("haproxy", "-f", config) }, `
global
  nbthread 1
defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 2s
  timeout http-request 3s
  option forwardfor
  http-reuse always
  retries 1
  option redispatch
frontend web
  bind 127.0.0.1:%[1]s
  default_backend app
backend app
  server one %[2]s
`, 3 * time.Second},
}

// comparePeers runs every behaviour against each proxy that is installed.
func comparePeers(o *origin) error {
	var names []string
	var outcomes [][]string
	for i := range peers {
		w, stop, err := peers[i].start(o)
		if err != nil {
			fmt.Fprintf(os.Stderr, "behave: skip %s: %v\n", peers[i].name, err)
			continue
		}
		names = append(names, peers[i].name)
		outcomes = append(outcomes, w.all())
		stop()
	}
	if len(names) == 0 {
		return fmt.Errorf("no proxy to ask")
	}
	return report(names, outcomes)
}

func (p *peer) start(o *origin) (*world, func(), error) {
	dir, err := os.MkdirTemp("", "behave-")
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // workers may be somebody else
		return nil, nil, err
	}
	addr := freeAddr()
	_, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, fmt.Appendf(nil, p.config, port, o.ln.Addr(), dir), 0o644); err != nil {
		return nil, nil, err
	}
	cmd := p.command(dir, config)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its workers end with it
	if err := cmd.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	stop := func() {
		cmd.Process.Signal(syscall.SIGTERM)
		time.AfterFunc(5*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		cmd.Wait()
		os.RemoveAll(dir)
	}
	w := &world{proxy: addr, origin: o, headTimeout: p.head}
	if !w.wait(func() bool {
		c, err := w.dial()
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		stop()
		return nil, nil, fmt.Errorf("%s does not answer at %s", p.name, addr)
	}
	return w, stop, nil
}

// freeAddr is an address that was free a moment ago.
func freeAddr() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer ln.Close()
	return ln.Addr().String()
}
