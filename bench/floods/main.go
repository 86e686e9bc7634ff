// Command floods attacks proxies the way that has brought others down, and
// watches the clients beside the attack: lbd, nginx and HAProxy, as far as they
// are here.
//
//	go run ./bench/floods [-peer lbd] [-only PING] [-connections 1000]
//
// Per attack it says how the attackers' connections ended, how the proxy's
// memory grew beside the bytes that they sent, and the failures and the 99th
// percentile of innocent clients, the median of rounds of 1.5 s: calm, before and
// afterwards, while the same attack is led against a wall beside the proxy, and
// under attack. A row says what a proxy is to be
// blamed for: an attack that met no end, memory that grew out of proportion or
// did not come back, innocent clients that got no answer or waited over three
// times as long as when calm, or beside the wall. It fails when that is lbd.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

// options bound an attack in time and count.
type options struct {
	attackers   int           // connections at once that send frames
	length      time.Duration // of a flood
	connections int           // at once that are slow
	hold        time.Duration // a slow one waits for its end
}

func main() {
	log.SetFlags(0)
	var o options
	flag.IntVar(&o.attackers, "attackers", 4, "connections at once of a flood of frames")
	flag.DurationVar(&o.length, "length", 3*round, "of a flood of frames")
	flag.IntVar(&o.connections, "connections", 5000, "at once that are slow, at most so many")
	flag.DurationVar(&o.hold, "hold", 50*time.Second, "how long a slow connection waits for its end")
	peer := flag.String("peer", "", "attack only this one: lbd, nginx or haproxy")
	only := flag.String("only", "", "only attacks whose name contains this")
	flag.Parse()
	rig.EndOnInterrupt()
	o.connections = min(o.connections, 5000)
	if err := run(o, *peer, *only); err != nil {
		log.Fatal("floods: ", err)
	}
}

func run(o options, peer, only string) error {
	origin, err := startOrigin()
	if err != nil {
		return fmt.Errorf("serve the origin: %w", err)
	}
	defer origin.Close()
	fmt.Println("| attack | proxy | connections and their end | sent | memory grew | came back to | innocents failed | their p99 (calm, beside a wall) | |\n|---|---|---|---|---|---|---|---|---|")
	missed, held := 0, 0
	for i := range proxies {
		p := &proxies[i]
		if peer != "" && p.Name != peer {
			continue
		}
		for _, a := range attacks {
			if !strings.Contains(a.name, only) {
				continue
			}
			r, err := p.Start(origin.Addr)
			if err != nil {
				fmt.Fprintf(os.Stderr, "floods: skip %s: %v\n", p.Name, err)
				break
			}
			res := a.run(o, r, origin.Addr)
			r.Stop()
			wrong := strings.Trim(res.wrong()+"; "+res.late(), "; ")
			fmt.Printf("| %s | %s | %s | %s | %s | %s | %d of %d | %v (%v, %v) | %s |\n", a.name, p.Name, res.ends.String(), size(res.sent), size(res.grew), size(res.stays),
				res.attacked.failed, res.attacked.asked, ms(res.attacked.p99), ms(res.calm.p99), ms(res.beside.p99), cmp.Or(wrong, "held"))
			switch {
			case p.Name != "lbd":
			case wrong == "":
				held++
			default:
				missed++
			}
		}
	}
	fmt.Printf("\nlbd held %d of %d\n", held, held+missed)
	if missed > 0 {
		return fmt.Errorf("lbd missed %d of %d", missed, held+missed)
	}
	return nil
}

func ms(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

func size(n int64) string {
	switch {
	case n >= 1<<20 || n <= -1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
}

var proxies = []rig.Proxy{
	{Name: "lbd", Command: func(dir, config string) *exec.Cmd { return exec.Command("bin/lbd", "run", "-c", config) }, Config: `
node: { data_dir: "{dir}/data", run_dir: "{dir}/run" }
workers: { processes: 1, threads: 1 }
fastpath: { mode: off }
log: { level: error, access: off }
admin: { http: "" }
listeners: { web: { bind: "127.0.0.1:{port}" } }
routes: [ { pool: app } ]
pools: { app: { backends: ["{origin}"], connections: { per_backend: 20000 } } }
`},
	{Name: "nginx", Command: func(dir, config string) *exec.Cmd { return exec.Command("nginx", "-p", dir, "-c", config) }, Config: `
daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid nginx.pid; error_log /dev/null crit;
events { worker_connections 18000; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream app { server {origin}; keepalive 128; }
  server {
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{h2} http2 backlog=4096;
    location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off; }
  }
}
`},
	{Name: "haproxy", Command: func(dir, config string) *exec.Cmd { return exec.Command("haproxy", "-f", config) }, Config: `
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 2s
  timeout http-request 10s
  http-reuse always
frontend web
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{h2} proto h2
  default_backend app
backend app
  server one {origin}
`},
}
