// Command l7 measures what a request costs: CPU time of the proxy's processes
// per request, total and user part, of lbd beside nginx, HAProxy and a blind
// relay in C, which does the least that any proxy must.
//
// All do the same work in the same run: the proxy is pinned to one core, load
// generator and origin to another, logs are off, connections are kept, and TLS
// is 1.3 with X25519 and AES-128-GCM for all. Rounds alternate between the
// proxies; medians count. It exits with 1 when a target
// is missed. Start at main, then measure.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// A workload is one row of the table: the load, and where it goes to.
type workload struct {
	name   string
	load   func(ctx context.Context, url string, seconds time.Duration) (requests int, err error)
	on     string  // which of a proxy's ports
	path   string  // what is asked for
	target string  // the peer that lbd is compared with
	limit  float64 // of total CPU per request, as a multiple of the target's; 0: no target
}

// The ports of a proxy.
const (
	onPlain = "http"
	onH2    = "h2"
	onTLS   = "https"     // with an ECDSA certificate
	onRSA   = "https-rsa" // with one of RSA 2048
)

var workloads = []workload{
	{"HTTP/1 -> HTTP/1, 1 KiB, 64 connections", wrk, onPlain, "/", "nginx", 1.0},
	{"HTTP/2 (16 x 10) -> HTTP/1, 1 KiB", h2load, onH2, "/", "haproxy", 1.0},
	{"1 MiB bodies, plain", wrkFew, onPlain, "/1MiB", "haproxy", 1.0},
	{"HTTPS, HTTP/1 keep-alive, 1 KiB", wrk, onTLS, "/", "nginx", 1.0},
	{"HTTPS, HTTP/1 keep-alive, 1 MiB", wrkFew, onTLS, "/1MiB", "nginx", 1.0},
	{"new TLS connections, ECDSA P-256, no resumption", handshakes, onTLS, "", "nginx", 1.5},
	{"new TLS connections, RSA 2048, no resumption", handshakes, onRSA, "", "nginx", 0},
}

func main() {
	log.SetFlags(0)
	rounds := flag.Int("rounds", 5, "alternating rounds, at least 3")
	length := flag.Duration("length", 4*time.Second, "of one measurement")
	lbd := flag.String("lbd", "bin/lbd", "the lbd binary")
	only := flag.String("only", "", "measure only the workloads whose name contains this")
	shake := flag.String("shake", "", "shake hands with this address, and nothing else")
	flag.Parse()
	if *shake != "" {
		shakeHands(*shake, *length)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	b, err := setUp(ctx, *lbd)
	if err != nil {
		b.close()
		log.Fatal(err)
	}
	missed := 0
	for _, w := range workloads {
		if !strings.Contains(w.name, *only) {
			continue
		}
		results, err := b.measure(ctx, w, max(3, *rounds), *length)
		if err != nil {
			b.close()
			log.Fatalf("%s: %v", w.name, err)
		}
		if !report(w, results) {
			missed++
		}
	}
	b.close()
	if missed > 0 {
		log.Fatalf("bench: %d of the targets missed", missed)
	}
	fmt.Println("bench: all targets held")
}

// cost is CPU time per request.
type cost struct{ total, user time.Duration }

// measure runs the rounds and returns every proxy's cost in each of them.
func (b *bench) measure(ctx context.Context, w workload, rounds int, length time.Duration) (map[string][]cost, error) {
	results := map[string][]cost{}
	for round := range rounds {
		for _, p := range b.proxies {
			if p.ports[w.on] == 0 || p.small && w.path != "/" {
				continue
			}
			url := p.url(w.on) + w.path
			if round == 0 { // warm up
				if _, err := w.load(ctx, url, time.Second); err != nil {
					return nil, fmt.Errorf("%s: %w", p.name, err)
				}
			}
			before := cpuOf(p.pid)
			n, err := w.load(ctx, url, length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			after := cpuOf(p.pid)
			results[p.name] = append(results[p.name], cost{
				total: (after.total - before.total) / time.Duration(n),
				user:  (after.user - before.user) / time.Duration(n),
			})
		}
	}
	return results, nil
}

// report prints a workload's table and says whether its target held.
func report(w workload, results map[string][]cost) bool {
	fmt.Printf("\n%s: CPU per request, median [spread] of %d rounds\n", w.name, len(results["lbd"]))
	fmt.Printf("  %-10s %10s %18s %10s %8s\n", "", "total us", "[least .. most]", "user us", "lbd is")
	own := median(results["lbd"])
	for _, name := range []string{"relay", "lbd", "nginx", "haproxy"} {
		costs := results[name]
		if len(costs) == 0 {
			continue
		}
		m := median(costs)
		least := slices.MinFunc(costs, byTotal).total
		most := slices.MaxFunc(costs, byTotal).total
		fmt.Printf("  %-10s %10.2f   [%5.2f .. %5.2f] %10.2f %8.2f\n", name,
			us(m.total), us(least), us(most), us(m.user), us(own.total)/us(m.total))
	}
	if r := results["relay"]; len(r) > 0 {
		spread := us(slices.MaxFunc(r, byTotal).total)/us(slices.MinFunc(r, byTotal).total) - 1
		if spread > 0.05 {
			fmt.Printf("  the relay's spread is %.0f %%: this machine is noisy now, trust the ratios only so far\n", spread*100)
		}
	}
	if w.limit == 0 {
		return true
	}
	ratio := us(own.total) / us(median(results[w.target]).total)
	held := ratio <= w.limit
	verdict := "held"
	if !held {
		verdict = "MISSED"
	}
	fmt.Printf("  target <= %.2f x %s: %.2f, %s\n", w.limit, w.target, ratio, verdict)
	return held
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func byTotal(a, b cost) int { return int(a.total - b.total) }

// median takes total and user part separately.
func median(costs []cost) cost {
	total, user := make([]time.Duration, 0, len(costs)), make([]time.Duration, 0, len(costs))
	for _, c := range costs {
		total, user = append(total, c.total), append(user, c.user)
	}
	slices.Sort(total)
	slices.Sort(user)
	return cost{total[len(total)/2], user[len(user)/2]}
}
