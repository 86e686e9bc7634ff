// Command l7 measures what a request costs: CPU time of the proxy's processes
// per request, total and user part, and its system calls, of lbd beside nginx,
// HAProxy and a blind relay in C, which does the least that any proxy must. Then
// what that leaves out: the price of filters and of the access log, latency at
// half load, and how rarely a connection to a backend is made.
//
// All do the same work in the same run: the proxy is pinned to one core, load
// generator and origin to another, logs are off, connections are kept, and TLS
// is 1.3 with X25519 and AES-128-GCM for all. Rounds alternate between the
// proxies; medians count. It ends with every target, what was measured and
// whether it held, and exits with 1 when one was missed. Start at rows, then
// measure.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

// A row of the table.
type row struct {
	name    string
	load    load
	on      string // which of a proxy's ports
	path    string // what is asked for
	who     []string
	counted bool // system calls, too
	targets []target
	// special measures what is no CPU time per request; load to targets are
	// not used then.
	special func(context.Context, *bench, plan) ([]verdict, error)
}

// load makes requests for so long and says how many were answered.
type load func(ctx context.Context, b *bench, url string, length time.Duration) (int, error)

// plan is how thoroughly to measure.
type plan struct {
	rounds int
	length time.Duration
	tool   string // the go command
	lbd    string // the binary
}

// The ports of a proxy.
const (
	onPlain = "http"
	onH2    = "h2"
	onTLS   = "https"     // with an ECDSA certificate
	onRSA   = "https-rsa" // with one of RSA 2048
	onH2H2  = "h2-h2"     // HTTP/2 to the backend, too
	onGRPC  = "grpc"
)

// logging is an lbd with an access log, beside that without.
const logging = "lbd, log on"

var (
	all   = []string{"relay", "lbd", "nginx", "haproxy"}
	peers = []string{"lbd", "nginx", "haproxy"}
)

var rows = []row{
	{name: "HTTP/1 -> HTTP/1, 1 KiB, 64 connections", load: wrk, on: onPlain, path: "/", who: all, counted: true,
		targets: []target{{total, best, 1.0, 0}, {user, "nginx", 0.7, 0}, {user, "", 0, 2.0}, {calls, "relay", 1, 0.1}}},
	{name: "HTTP/2 (16 x 10) -> HTTP/1, 1 KiB", load: h2load, on: onH2, path: "/", who: peers, counted: true,
		targets: []target{{total, "haproxy", 1.0, 0}, {total, "nginx", 0.5, 0}, {user, "", 0, 3.0}}},
	{name: "HTTP/2 (16 x 10) -> HTTP/2, 1 KiB", load: h2load, on: onH2H2, path: "/", who: peers, counted: true,
		targets: []target{{total, best, 1.0, 0}}},
	{name: "gRPC unary (16 x 10)", load: unary, on: onGRPC, path: "/unary", who: peers, counted: true,
		targets: []target{{total, best, 1.0, 0}}},
	{name: "HTTPS, HTTP/1 keep-alive, 1 KiB", load: wrk, on: onTLS, path: "/", who: peers,
		targets: []target{{total, "nginx", 1.0, 0}}},
	{name: "HTTPS, HTTP/1 keep-alive, 1 MiB", load: wrkFew, on: onTLS, path: "/1MiB", who: peers,
		targets: []target{{total, "nginx", 1.0, 0}}},
	{name: "new TLS connections, ECDSA P-256, no resumption", load: handshakes, on: onTLS, who: peers,
		targets: []target{{total, "nginx", 1.5, 0}}},
	{name: "new TLS connections, RSA 2048, no resumption", load: handshakes, on: onRSA, who: peers},
	{name: "1 MiB bodies, plain", load: wrkFew, on: onPlain, path: "/1MiB", who: peers,
		targets: []target{{total, "haproxy", 1.0, 0}}},
	{name: "access log on", load: wrk, on: onPlain, path: "/", who: []string{"lbd", logging},
		targets: []target{{total, "lbd", 1.05, 0}}},
	{name: "engine: filters and allocations", special: engine},
	{name: "added p99 at half load", special: latency},
	{name: "upstream reuse, 64 backends, 2 threads", special: reuse},
}

// longest is when a run is given up.
const longest = 25 * time.Minute

func main() {
	log.SetFlags(0)
	p := plan{}
	flag.IntVar(&p.rounds, "rounds", 5, "alternating rounds, at least 3")
	flag.DurationVar(&p.length, "length", 3*time.Second, "of one measurement")
	quick := flag.Bool("quick", false, "3 rounds of 1 s: what is broken shows, what is slow may not")
	flag.StringVar(&p.lbd, "lbd", "bin/lbd", "the lbd binary")
	flag.StringVar(&p.tool, "go", "go", "the go command")
	only := flag.String("only", "", "measure only the rows whose name contains this")
	profile := flag.String("profile", "", "instead of measuring, load lbd alone with short messages, and leave its worker's CPU profile here")
	shake := flag.String("shake", "", "shake hands with this address, and nothing else")
	flag.Parse()
	if *shake != "" {
		shakeHands(*shake, p.length)
		return
	}
	rig.EndOnInterrupt()
	if *quick {
		p.rounds, p.length = 3, time.Second
	}
	p.rounds = max(3, p.rounds)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	run := func() error { return measureAll(ctx, p, *only) }
	if *profile != "" {
		run = func() error { return takeProfile(ctx, p, *profile) }
	}
	if err := run(); err != nil {
		log.Fatalf("bench: %v", err)
	}
}

func measureAll(ctx context.Context, p plan, only string) error {
	b, err := setUp(ctx, p.lbd)
	defer b.close()
	if err != nil {
		return err
	}
	var verdicts []verdict
	for _, r := range rows {
		if !strings.Contains(r.name, only) {
			continue
		}
		v, err := b.measureRow(ctx, r, p)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		verdicts = append(verdicts, v...)
	}
	return conclude(verdicts)
}

func (b *bench) measureRow(ctx context.Context, r row, p plan) ([]verdict, error) {
	if r.special != nil {
		fmt.Printf("\n%s\n", r.name)
		v, err := r.special(ctx, b, p)
		for i := range v {
			v[i].row = r.name
		}
		return v, err
	}
	results, err := b.measure(ctx, r, p)
	if err != nil {
		return nil, err
	}
	return report(r, results), nil
}

// cost is what a request cost in one round.
type cost struct {
	total, user time.Duration
	calls       float64 // 0: not counted
}

// measure runs the rounds and returns every proxy's cost in each of them.
func (b *bench) measure(ctx context.Context, r row, p plan) (map[string][]cost, error) {
	results := map[string][]cost{}
	for round := range p.rounds {
		for _, name := range r.who {
			at := b.proxies[name]
			if at == nil || at.ports[r.on] == 0 {
				continue
			}
			url := at.url(r.on) + r.path
			if round == 0 { // warm up
				if _, err := r.load(ctx, b, url, time.Second); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
			c, err := b.once(ctx, r, at, url, p.length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			results[name] = append(results[name], c)
		}
	}
	return results, nil
}

func (b *bench) once(ctx context.Context, r row, at *proxy, url string, length time.Duration) (cost, error) {
	var counter *counter
	if r.counted {
		counter = b.count(ctx, at.pid)
	}
	before := cpuOf(at.pid)
	n, err := r.load(ctx, b, url, length)
	after := cpuOf(at.pid)
	counted := counter.stop()
	if err != nil {
		return cost{}, err
	}
	return cost{
		total: (after.total - before.total) / time.Duration(n),
		user:  (after.user - before.user) / time.Duration(n),
		calls: counted / float64(n),
	}, nil
}
