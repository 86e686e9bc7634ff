package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Every proxy is set up the way its documentation asks for speed: one worker,
// one thread, kept connections on both sides, no log.

func (b *bench) startOrigin(context.Context) (int, error) {
	port := freePorts(1)[0]
	conf := b.file("origin.conf", fmt.Sprintf(`
daemon off; worker_processes 1; pid %[1]s/origin.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  server { listen 127.0.0.1:%[2]d backlog=4096; location / { return 200 "%[3]s"; } }
}`, b.dir, port, strings.Repeat("x", 1024)))
	_, err := b.start(loadCore, []int{port}, "nginx", "-p", b.dir, "-c", conf)
	return port, err
}

func (b *bench) startRelay(ctx context.Context, origin int) (proxy, error) {
	p := proxy{name: "relay", port: freePorts(1)[0]}
	binary := filepath.Join(b.dir, "relay")
	if out, err := exec.CommandContext(ctx, "cc", "-O2", "-o", binary, "bench/relay/relay.c").CombinedOutput(); err != nil {
		return p, fmt.Errorf("compile bench/relay/relay.c: %w\n%s", err, out)
	}
	var err error
	p.pid, err = b.start(proxyCore, []int{p.port}, binary, fmt.Sprint(p.port), fmt.Sprint(origin))
	return p, err
}

func (b *bench) startLBD(_ context.Context, lbd string, origin int) (proxy, error) {
	port := freePorts(1)[0]
	p := proxy{name: "lbd", port: port, h2port: port} // prior knowledge shares the port
	conf := b.file("lbd.yaml", fmt.Sprintf(`
node: { name: bench, data_dir: %[1]s/lbd-data, run_dir: %[1]s/lbd-run }
workers: { processes: 1, threads: 1 }
fastpath: { mode: off }
log: { access: off }
admin: { http: "" }
listeners:
  web: { bind: "127.0.0.1:%[2]d" }
routes:
  - pool: app
pools:
  app: { backends: ["127.0.0.1:%[3]d"] }
`, b.dir, port, origin))
	var err error
	p.pid, err = b.start(proxyCore, []int{port}, lbd, "run", "-c", conf)
	return p, err
}

func (b *bench) startNginx(_ context.Context, origin int) (proxy, error) {
	ports := freePorts(2)
	p := proxy{name: "nginx", port: ports[0], h2port: ports[1]}
	conf := b.file("nginx.conf", fmt.Sprintf(`
daemon off; worker_processes 1; pid %[1]s/nginx.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  upstream app { server 127.0.0.1:%[4]d; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%[2]d backlog=4096; listen 127.0.0.1:%[3]d http2 backlog=4096;
    location / {
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}`, b.dir, ports[0], ports[1], origin))
	var err error
	p.pid, err = b.start(proxyCore, ports, "nginx", "-p", b.dir, "-c", conf)
	return p, err
}

func (b *bench) startHAProxy(_ context.Context, origin int) (proxy, error) {
	ports := freePorts(2)
	p := proxy{name: "haproxy", port: ports[0], h2port: ports[1]}
	conf := b.file("haproxy.cfg", fmt.Sprintf(`
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend web
  bind 127.0.0.1:%[1]d
  bind 127.0.0.1:%[2]d proto h2
  http-request set-header X-Forwarded-Proto http
  default_backend app
backend app
  server origin 127.0.0.1:%[3]d
`, ports[0], ports[1], origin))
	var err error
	p.pid, err = b.start(proxyCore, ports, "haproxy", "-f", conf)
	return p, err
}
