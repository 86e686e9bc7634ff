package main

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/cirque-lb/lb/bench/rig"
)

const plain = "GET / HTTP/1.1\r\nHost: overload\r\nConnection: close\r\n\r\n"

// large is a request whose head a proxy keeps until it is answered.
var large = "GET /long HTTP/1.1\r\nHost: overload\r\nConnection: close\r\nX-Large: " + strings.Repeat("x", 60<<10) + "\r\n\r\n"

// many are so many addresses that none has too many connections.
func many(i int) string { return fmt.Sprintf("127.0.2.%d", i%200+1) }

func one(int) string { return "127.0.3.1" }

var overloads = []overload{
	{name: "connections of the process", ask: plain, from: many, rate: full, pairs: pick(map[string]string{
		"lbd": "{limits}=limits: { connections: LIMIT }", "nginx": "{workers}=TWICE", "haproxy": "{max}=maxconn LIMIT"})},
	{name: "connections of a listener", ask: plain, from: many, rate: full, pairs: pick(map[string]string{
		"lbd": "{listener}=, connections: LIMIT", "nginx": "{server}=limit_conn all LIMIT;", "haproxy": "{front}=maxconn LIMIT"})},
	{name: "connections of a client", ask: plain, from: one, rate: full, pairs: pick(map[string]string{
		"lbd": "{limits}=limits: { per_client: LIMIT }", "nginx": "{server}=limit_conn each LIMIT;",
		"haproxy": "{front}=stick-table type ip size 1m expire 10s store conn_cur\n  http-request track-sc0 src\n  http-request deny deny_status 503 if { sc0_conn_cur gt LIMIT }"})},
	{name: "memory", ask: large, from: many, rate: 90, pairs: pick(map[string]string{"lbd": "{limits}=limits: { memory: 40MiB }"})},
	{name: "open files", ask: plain, from: many, rate: full, files: 160, pairs: pick(map[string]string{"lbd": "", "nginx": "", "haproxy": "{max}=maxconn LIMIT"})},
}

// pick gives each proxy its own words for a limit: {place}=text.
func pick(words map[string]string) func(*rig.Proxy) []string {
	return func(p *rig.Proxy) []string {
		text, has := words[p.Name]
		if !has {
			return nil
		}
		place, text, _ := strings.Cut(text, "=")
		text = strings.NewReplacer("LIMIT", fmt.Sprint(limit+friends), "TWICE", fmt.Sprint(2*(limit+friends))).Replace(text)
		var pairs []string
		if place != "" {
			pairs = append(pairs, place, text)
		}
		return append(pairs, "{limits}", "", "{listener}", "", "{workers}", "18000", "{server}", "", "{max}", "maxconn 8192", "{front}", "")
	}
}

var proxies = []rig.Proxy{
	{Name: "lbd", Command: func(dir, config string) *exec.Cmd { return exec.Command("bin/lbd", "run", "-c", config) }, Config: `
node: { data_dir: "{dir}/data", run_dir: "{dir}/run" }
workers: { processes: 1, threads: 1 }
fastpath: { mode: off }
log: { level: error, access: off }
admin: { http: "" }
{limits}
listeners: { web: { bind: "127.0.0.1:{port}"{listener} } }
routes: [ { pool: app } ]
pools: { app: { backends: ["{origin}"], connections: { per_backend: 20000 } } }
`},
	{Name: "nginx", Command: func(dir, config string) *exec.Cmd { return exec.Command("nginx", "-p", dir, "-c", config) }, Config: `
daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid nginx.pid; error_log /dev/null crit;
events { worker_connections {workers}; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  limit_conn_zone $server_port zone=all:1m;
  limit_conn_zone $binary_remote_addr zone=each:1m;
  upstream app { server {origin}; keepalive 128; }
  server {
    listen 127.0.0.1:{port} backlog=4096;
    {server}
    location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
`},
	{Name: "haproxy", Command: func(dir, config string) *exec.Cmd { return exec.Command("haproxy", "-f", config) }, Config: `
global
  nbthread 1
  {max}
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 2s
  timeout http-request 10s
  http-reuse always
frontend web
  bind 127.0.0.1:{port}
  {front}
  default_backend app
backend app
  server one {origin}
`},
}
