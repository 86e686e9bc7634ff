package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bench/rig"
)

// peer is a proxy that we start ourselves.
type peer struct {
	rig.Proxy
	head   time.Duration // its time-out for a whole head
	second bool          // it has our lab's routes
}

// labDocument is our configuration: {origin}, one that is {dead}, one that
// {hangs}, one that is {mute}, one that speaks HTTP/2 at {backendh2}, gRPC at {backendgrpc}
// and TLS at {backendtls}.
const labDocument = `
listeners:
  web: { bind: "127.0.0.1:{port}" }
  secure: { bind: "127.0.0.1:{secure}", protocol: https, tls: { certificates: [{ cert: "{pki}/a.pem", key: "{pki}/a.key" }, { cert: "{pki}/b.pem", key: "{pki}/b.key" }] } }
  mutual: { bind: "127.0.0.1:{mutual}", protocol: https, tls: { certificates: [{ cert: "{pki}/a.pem", key: "{pki}/a.key" }, { cert: "{pki}/b.pem", key: "{pki}/b.key" }], client_ca: "{pki}/clients.pem" } }
  proxied: { bind: "127.0.0.1:{proxied}", proxy_protocol: { from: ["127.0.0.0/8"] }, normalize: true }
routes:
  - { match: { path: /tls/ }, pool: tls }
  - { match: { path: /tlstwo/ }, pool: tlstwo }
  - { match: { path: /two/ }, pool: two }
  - { match: { path: /none/ }, pool: none }
  - { match: { path: /hang/ }, pool: hang }
  - { match: { path: /both/ }, pool: both }
  - { match: { path: /slow/ }, timeout: { request: 500ms }, pool: app }
  - { match: { path: /late/ }, timeout: { attempt: 300ms }, pool: late }
  - { match: { path: /latecall/ }, timeout: { attempt: 300ms }, retry: { methods: [POST] }, pool: latecall }
  - { match: { path: /h2/ }, pool: h2 }
  - { match: { path: /grpc/ }, pool: grpc }
  - { match: { path: /grpcdead/ }, pool: grpcdead }
  - { match: { path: /web/ }, pool: grpc, filters: [ cors: { origins: ["https://shop.example"], methods: [POST], headers: ["*"], expose: [grpc-status, grpc-message] }, grpc_web ] }
  - { match: { path: /webdead/ }, pool: grpcdead, filters: [ grpc_web ] }
  - pool: app
pools:
  app: { backends: ["{origin}"] }
  two: { backends: ["{dead}", "{origin}"] }
  both: { backends: ["{hangs}", "{origin}"], connections: { connect_timeout: 300ms } }
  late: { backends: ["{mute}", "{origin}"] }
  latecall: { backends: ["{mute}", "{origin}"] }
  none: { backends: ["{dead}"] }
  hang: { backends: ["{hangs}"], connections: { connect_timeout: 300ms } }
  h2: { backends: ["{backendh2}"], protocol: http2 }
  grpc: { backends: ["{backendgrpc}"], protocol: grpc }
  grpcdead: { backends: ["{dead}"], protocol: grpc }
  tlstwo:
    tls: { ca: "{pki}/servers.pem", server_name: origin.example, cert: "{pki}/lb.pem", key: "{pki}/lb.key" }
    backends: ["{backendh2}", "{backendtls}"]
  tls:
    tls: { ca: "{pki}/servers.pem", server_name: origin.example, cert: "{pki}/lb.pem", key: "{pki}/lb.key" }
    connections: { connect_timeout: 1s }
    backends: ["{backendtls}"]
`

var peers = []peer{
	{rig.Proxy{Name: "lbd", Drain: syscall.SIGTERM, Command: func(dir, config string) *exec.Cmd {
		return exec.Command("bin/lbd", "run", "-c", config)
	}, Config: `
node: { data_dir: "{dir}/data", run_dir: "{dir}/run" }
workers: { processes: 1, threads: 1 }
fastpath: { mode: off }
log: { level: error, access: off }
admin: { http: "" }
` + labDocument}, 10 * time.Second, true},
	{rig.Proxy{Name: "nginx", Drain: syscall.SIGQUIT, Command: func(dir, config string) *exec.Cmd {
		return exec.Command("nginx", "-p", dir, "-c", config)
	}, Config: `
daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events { }
http {
  access_log off; client_header_timeout 3s; client_body_timeout 3s;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream app { server {origin}; keepalive 16; }
  server {
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{h2} http2;
    location / { {pass} }
    location /grpc/ { grpc_pass grpc://{backendgrpc}; grpc_read_timeout 2s; }
    location /grpcdead/ { grpc_pass grpc://{dead}; }
    location /tls/ {
      proxy_pass https://{backendtls}; proxy_http_version 1.1; proxy_connect_timeout 1s; proxy_read_timeout 2s;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {pki}/servers.pem; proxy_ssl_name origin.example; proxy_ssl_server_name on;
      proxy_ssl_certificate {pki}/lb.pem; proxy_ssl_certificate_key {pki}/lb.key; proxy_set_header Connection "";
    }
  }
  ssl_session_cache shared:s:1m;
  server { listen 127.0.0.1:{secure} ssl http2 default_server; server_name a.example; ssl_certificate {pki}/a.pem; ssl_certificate_key {pki}/a.key; location / { {pass} } }
  server { listen 127.0.0.1:{secure} ssl http2; server_name b.example *.b.example; ssl_certificate {pki}/b.pem; ssl_certificate_key {pki}/b.key; location / { {pass} } }
  server { listen 127.0.0.1:{mutual} ssl; ssl_certificate {pki}/a.pem; ssl_certificate_key {pki}/a.key;
    ssl_client_certificate {pki}/clients.pem; ssl_verify_client on; location / { {pass} } }
  server { listen 127.0.0.1:{proxied} proxy_protocol; set_real_ip_from 127.0.0.0/8; real_ip_header proxy_protocol; location / { {pass} } }
}
`}, 3 * time.Second, false},
	{rig.Proxy{Name: "haproxy", Drain: syscall.SIGUSR1, Command: func(dir, config string) *exec.Cmd {
		return exec.Command("haproxy", "-f", config)
	}, Config: `
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
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{h2} proto h2
  bind 127.0.0.1:{secure} ssl crt {pki}/a.both crt {pki}/b.both alpn h2,http/1.1
  bind 127.0.0.1:{mutual} ssl crt {pki}/a.both ca-file {pki}/clients.pem verify required
  bind 127.0.0.1:{proxied} accept-proxy
  use_backend tls if { path_beg /tls/ }
  use_backend grpc if { path_beg /grpc/ }
  use_backend grpcdead if { path_beg /grpcdead/ }
  default_backend app
backend app
  server one {origin}
backend grpc
  timeout server 2s
  server one {backendgrpc} proto h2
backend grpcdead
  server one {dead} proto h2
backend tls
  timeout connect 1s
  timeout server 2s
  server one {backendtls} ssl verify required ca-file {pki}/servers.pem sni str(origin.example) verifyhost origin.example crt {pki}/lb.both
`}, 3 * time.Second, false},
}

// nginxPass hands a request on.
const nginxPass = `proxy_pass http://app; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;`

// comparePeers runs every behaviour against each proxy that is installed.
func comparePeers(o *origin, only string) error {
	t, err := startTLS()
	if err != nil {
		return err
	}
	defer t.close()
	var names []string
	var outcomes [][]string
	for i := range peers {
		p := &peers[i]
		if only != "" && p.Name != only {
			continue
		}
		w, stop, err := p.start(o, t)
		if err != nil {
			fmt.Fprintf(os.Stderr, "behave: skip %s: %v\n", p.Name, err)
			continue
		}
		names = append(names, p.Name)
		outcomes = append(outcomes, w.all())
		stop()
	}
	if len(names) == 0 {
		return fmt.Errorf("no proxy to ask")
	}
	return report(names, outcomes)
}

// start runs a peer and what our lab's routes lead to.
func (p *peer) start(o *origin, t *worldTLS) (*world, func(), error) {
	backend, err := startOriginH2()
	if err != nil {
		return nil, nil, err
	}
	calls, err := startOriginGRPC()
	if err != nil {
		return nil, nil, err
	}
	hangs, release, err := hangingAddr()
	if err != nil {
		return nil, nil, err
	}
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, nobody answers
	if err != nil {
		return nil, nil, err
	}
	t = &worldTLS{rig.FreeAddr(), rig.FreeAddr(), rig.FreeAddr(), t.pki, t.origin}
	r, err := p.Start(o.ln.Addr().String(), append(t.pairs(), "{dead}", rig.FreeAddr(), "{hangs}", hangs, "{mute}", mute.Addr().String(), "{backendh2}", backend.ln.Addr().String(), "{backendgrpc}", calls.addr(), "{pass}", nginxPass)...)
	stop := func() {
		if r != nil {
			r.Stop()
		}
		release()
		mute.Close()
		backend.ln.Close()
		calls.ln.Close()
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	w := &world{proxy: r.Addr, h2: r.H2, origin: o, headTimeout: p.head, second: p.second, backendH2: backend, backendGRPC: calls, drain: r.Drain, tls: t}
	return w, stop, nil
}

// hangingAddr is the address of a socket whose accept queue is full: a SYN to
// it is never answered.
func hangingAddr() (addr string, release func(), err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	var fill []net.Conn
	release = func() {
		for _, c := range fill {
			c.Close()
		}
		unix.Close(fd)
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	name, nameErr := unix.Getsockname(fd)
	if err = errors.Join(err, nameErr); err != nil {
		release()
		return "", nil, err
	}
	addr = fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 4 {
		c, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
		if err != nil {
			break
		}
		fill = append(fill, c)
	}
	return addr, release, nil
}
