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

// fill puts ports and directory into a configuration: {http} {h2} {https}
// {https-rsa} {origin} {dir}.
func (b *bench) fill(p proxy, origin int, config string) string {
	pairs := []string{"{origin}", fmt.Sprint(origin), "{dir}", b.dir}
	for on, port := range p.ports {
		pairs = append(pairs, "{"+on+"}", fmt.Sprint(port))
	}
	return strings.NewReplacer(pairs...).Replace(config)
}

func (b *bench) startOrigin(context.Context) (int, error) {
	p, ports := served("origin", onPlain)
	b.file("1MiB", strings.Repeat("x", 1<<20))
	conf := b.file("origin.conf", b.fill(p, 0, fmt.Sprintf(`
daemon off; worker_processes 1; pid {dir}/origin.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; sendfile on; open_file_cache max=4;
  server { listen 127.0.0.1:{http} backlog=4096; root {dir}; location = / { return 200 "%s"; } location / { } }
}`, strings.Repeat("x", 1024))))
	_, err := b.start(loadCore, ports, "nginx", "-p", b.dir, "-c", conf)
	return ports[0], err
}

func (b *bench) startRelay(ctx context.Context, origin int) (proxy, error) {
	p, ports := served("relay", onPlain)
	p.small = true
	binary := filepath.Join(b.dir, "relay")
	if out, err := exec.CommandContext(ctx, "cc", "-O2", "-o", binary, "bench/relay/relay.c").CombinedOutput(); err != nil {
		return p, fmt.Errorf("compile bench/relay/relay.c: %w\n%s", err, out)
	}
	var err error
	p.pid, err = b.start(proxyCore, ports, binary, fmt.Sprint(ports[0]), fmt.Sprint(origin))
	return p, err
}

func (b *bench) startLBD(_ context.Context, lbd string, origin int) (proxy, error) {
	p, ports := served("lbd", onPlain, onTLS, onRSA)
	p.ports[onH2] = p.ports[onPlain] // prior knowledge shares the port
	conf := b.file("lbd.yaml", b.fill(p, origin, `
node: { name: bench, data_dir: {dir}/lbd-data, run_dir: {dir}/lbd-run }
workers: { processes: 1, threads: 1 }
fastpath: { mode: off }
log: { access: off }
admin: { http: "" }
listeners:
  web: { bind: "127.0.0.1:{http}" }
  tls: { bind: "127.0.0.1:{https}", protocol: https, tls: { certificates: [{ cert: ecdsa.pem, key: ecdsa.key }] } }
  rsa: { bind: "127.0.0.1:{https-rsa}", protocol: https, tls: { certificates: [{ cert: rsa.pem, key: rsa.key }] } }
routes:
  - pool: app
pools:
  app: { backends: ["127.0.0.1:{origin}"] }
`))
	var err error
	p.pid, err = b.start(proxyCore, ports, lbd, "run", "-c", conf)
	return p, err
}

func (b *bench) startNginx(_ context.Context, origin int) (proxy, error) {
	p, ports := served("nginx", onPlain, onH2, onTLS, onRSA)
	conf := b.file("nginx.conf", b.fill(p, origin, `
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
  upstream app { server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 1000000000; }
  proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_buffers 8 32k; proxy_buffer_size 16k; proxy_max_temp_file_size 0;
  server {
    listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{h2} http2 backlog=4096;
    location / { proxy_pass http://app; }
  }
  server {
    listen 127.0.0.1:{https} ssl backlog=4096; ssl_certificate {dir}/ecdsa.pem; ssl_certificate_key {dir}/ecdsa.key;
    location / { proxy_pass http://app; }
  }
  server {
    listen 127.0.0.1:{https-rsa} ssl backlog=4096; ssl_certificate {dir}/rsa.pem; ssl_certificate_key {dir}/rsa.key;
    location / { proxy_pass http://app; }
  }
}`))
	var err error
	p.pid, err = b.start(proxyCore, ports, "nginx", "-p", b.dir, "-c", conf)
	return p, err
}

func (b *bench) startHAProxy(_ context.Context, origin int) (proxy, error) {
	p, ports := served("haproxy", onPlain, onH2, onTLS, onRSA)
	conf := b.file("haproxy.cfg", b.fill(p, origin, `
global
  nbthread 1
  maxconn 8192
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend web
  bind 127.0.0.1:{http}
  bind 127.0.0.1:{h2} proto h2
  bind 127.0.0.1:{https} ssl crt {dir}/ecdsa.both
  bind 127.0.0.1:{https-rsa} ssl crt {dir}/rsa.both
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend app
backend app
  server origin 127.0.0.1:{origin}
`))
	var err error
	p.pid, err = b.start(proxyCore, ports, "haproxy", "-f", conf)
	return p, err
}
