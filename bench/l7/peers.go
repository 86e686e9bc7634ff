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
// {https-rsa} {h2-h2} {grpc}, {origin} {origin-h2} {origin-any}, {dir}.
func (b *bench) fill(p *proxy, config string) string {
	pairs := []string{"{dir}", b.dir}
	for on, port := range p.ports {
		pairs = append(pairs, "{"+on+"}", fmt.Sprint(port))
	}
	if origin := b.proxies["origin"]; origin != nil {
		pairs = append(pairs, "{origin}", fmt.Sprint(origin.ports[onPlain]), "{origin-h2}", fmt.Sprint(origin.ports[onH2]),
			"{origin-any}", fmt.Sprint(origin.ports[onAny]))
	}
	return strings.NewReplacer(pairs...).Replace(config)
}

// onAny is the origin's port at every address of 127/8.
const onAny = "any"

// startOrigin starts nginx as an origin. To have it read a call to its end
// before it answers, which gRPC's servers do, it asks itself for the answer.
func (b *bench) startOrigin() (*proxy, error) {
	p, ports := served("origin", onPlain, onH2, onAny)
	b.file("1MiB", strings.Repeat("x", 1<<20))
	message := "\x00\x00\x00\x00\x20" + strings.Repeat("m", 32)
	b.file("message", message)
	conf := b.file("origin.conf", b.fill(p, fmt.Sprintf(`
daemon off; worker_processes 1; pid {dir}/origin.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; sendfile on; open_file_cache max=4;
  upstream self { server 127.0.0.1:{http}; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:{http} backlog=4096; listen {any} backlog=4096; listen 127.0.0.1:{h2} http2 backlog=4096; root {dir};
    location = / { return 200 "%s"; }
    location = /unary {
      add_trailer grpc-status 0;
      proxy_pass http://self/message; proxy_method GET; proxy_pass_request_body off; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Content-Length "";
    }
    location = /message { default_type application/grpc; }
    location = /status { stub_status; }
    location / { }
  }
}`, strings.Repeat("x", 1024))))
	var err error
	p.pid, err = b.start(loadCore, ports, "nginx", "-p", b.dir, "-c", conf)
	return p, err
}

func (b *bench) startRelay(ctx context.Context, _ string) (*proxy, error) {
	p, ports := served("relay", onPlain)
	binary := filepath.Join(b.dir, "relay")
	if out, err := exec.CommandContext(ctx, "cc", "-O2", "-o", binary, "bench/relay/relay.c").CombinedOutput(); err != nil {
		return p, fmt.Errorf("compile bench/relay/relay.c: %w\n%s", err, out)
	}
	var err error
	p.pid, err = b.start(proxyCore, ports, binary, fmt.Sprint(ports[0]), fmt.Sprint(b.proxies["origin"].ports[onPlain]))
	return p, err
}

func (b *bench) startLBD(_ context.Context, lbd string) (*proxy, error) {
	p, ports := served("lbd", onPlain, onTLS, onRSA, onH2H2, onGRPC)
	p.ports[onH2] = p.ports[onPlain] // prior knowledge shares the port
	return p, b.startOneLBD(p, ports, proxyCore, lbd, `
workers: { processes: 1, threads: 1 }
log: { access: off }
listeners:
  web: { bind: "127.0.0.1:{http}" }
  tls: { bind: "127.0.0.1:{https}", protocol: https, tls: { certificates: [{ cert: ecdsa.pem, key: ecdsa.key }] } }
  rsa: { bind: "127.0.0.1:{https-rsa}", protocol: https, tls: { certificates: [{ cert: rsa.pem, key: rsa.key }] } }
  two: { bind: "127.0.0.1:{h2-h2}" }
  rpc: { bind: "127.0.0.1:{grpc}" }
routes:
  - { match: { listener: [two] }, pool: two }
  - { match: { listener: [rpc] }, pool: rpc }
  - pool: app
pools:
  app: { backends: ["127.0.0.1:{origin}"] }
  two: { protocol: http2, backends: ["127.0.0.1:{origin-h2}"] }
  rpc: { protocol: grpc, backends: ["127.0.0.1:{origin-h2}"] }
`)
}

// startLogging starts an lbd that writes an access log.
func (b *bench) startLogging(_ context.Context, lbd string) (*proxy, error) {
	p, ports := served(logging, onPlain)
	return p, b.startOneLBD(p, ports, proxyCore, lbd, `
workers: { processes: 1, threads: 1 }
log: { access: {dir}/access.log }
listeners: { web: { bind: "127.0.0.1:{http}" } }
routes: [ { pool: app } ]
pools: { app: { backends: ["127.0.0.1:{origin}"] } }
`)
}

// startReuse starts an lbd of two threads in front of 64 backends, all of them
// the origin.
func (b *bench) startReuse(lbd string) (*proxy, error) {
	p, ports := served("lbd-reuse", onPlain)
	var backends []string
	for i := range 64 {
		backends = append(backends, fmt.Sprintf(`"127.0.1.%d:{origin-any}"`, i+1))
	}
	return p, b.startOneLBD(p, ports, anyCore, lbd, `
workers: { processes: 1, threads: 2 }
log: { access: off }
listeners: { web: { bind: "127.0.0.1:{http}" } }
routes: [ { pool: app } ]
pools: { app: { backends: [`+strings.Join(backends, ", ")+`] } }
`)
}

func (b *bench) startOneLBD(p *proxy, ports []int, core int, lbd, config string) error {
	name := strings.NewReplacer(" ", "-", ",", "").Replace(p.name)
	conf := b.file(name+".yaml", b.fill(p, "node: { name: bench, data_dir: {dir}/"+name+"-data, run_dir: {dir}/"+name+"-run }\n"+
		"fastpath: { mode: off }\nadmin: { http: \"\" }\n"+config))
	var err error
	p.pid, err = b.start(core, ports, lbd, "run", "-c", conf)
	return err
}

func (b *bench) startNginx(context.Context, string) (*proxy, error) {
	p, ports := served("nginx", onPlain, onH2, onTLS, onRSA, onGRPC)
	conf := b.file("nginx.conf", b.fill(p, `
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
  upstream app { server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 1000000000; }
  upstream rpc { server 127.0.0.1:{origin-h2}; keepalive 256; keepalive_requests 1000000000; }
  proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
  grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for; grpc_set_header X-Forwarded-Proto $scheme;
  proxy_buffers 8 32k; proxy_buffer_size 16k; proxy_max_temp_file_size 0;
  server {
    listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{h2} http2 backlog=4096;
    location / { proxy_pass http://app; }
  }
  server {
    listen 127.0.0.1:{grpc} http2 backlog=4096;
    location / { grpc_pass grpc://rpc; }
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

func (b *bench) startHAProxy(context.Context, string) (*proxy, error) {
	p, ports := served("haproxy", onPlain, onH2, onTLS, onRSA, onH2H2, onGRPC)
	conf := b.file("haproxy.cfg", b.fill(p, `
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
frontend two
  bind 127.0.0.1:{h2-h2} proto h2
  bind 127.0.0.1:{grpc} proto h2
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend two
backend app
  server origin 127.0.0.1:{origin}
backend two
  server origin 127.0.0.1:{origin-h2} proto h2
`))
	var err error
	p.pid, err = b.start(proxyCore, ports, "haproxy", "-f", conf)
	return p, err
}
