// Command behave asks a proxy what it does with requests and responses that are
// odd, broken or hostile, byte by byte, and says what it saw.
//
//	go run ./bench/behave                          lbd, nginx and HAProxy, as far as they are here, side by side
//	go run ./bench/behave -peer nginx               only that one
//	go run ./bench/behave -proxy ADDR -origin ADDR a running proxy whose only backend is ADDR, which behave serves
//
// The behaviours are rows of a table (cases_*.go): how to provoke one, and the
// outcomes that are right, Cirque's first. The test of this package holds the
// proxy of this repository to the first outcome of each.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

func main() {
	proxy := flag.String("proxy", "", "address of a running proxy")
	backend := flag.String("origin", "127.0.0.1:0", "address to serve the origin at")
	h2 := flag.String("h2", "", "where that proxy speaks HTTP/2 in clear text, when it is another address")
	head := flag.Duration("head-timeout", 0, "how long the proxy waits for a whole head")
	peer := flag.String("peer", "", "start only this one: lbd, nginx or haproxy")
	only := flag.String("only", "", "only behaviours whose name contains this")
	flag.Parse()
	rig.EndOnInterrupt()
	chosen = slices.DeleteFunc(all(), func(b behaviour) bool { return !strings.Contains(b.name, *only) })
	if err := run(*proxy, cmp.Or(*h2, *proxy), *backend, *peer, *head); err != nil {
		fmt.Fprintln(os.Stderr, "behave:", err)
		os.Exit(1)
	}
}

// chosen are the behaviours to ask for.
var chosen []behaviour

func run(proxy, h2, backend, peer string, head time.Duration) error {
	o, err := startOrigin(backend)
	if err != nil {
		return fmt.Errorf("serve the origin: %w", err)
	}
	if proxy != "" {
		w := &world{proxy: proxy, h2: h2, origin: o, headTimeout: head}
		return report([]string{proxy}, [][]string{w.all()})
	}
	return comparePeers(o, peer)
}

// all runs every behaviour and returns the outcomes.
func (w *world) all() []string {
	var out []string
	for _, b := range chosen {
		out = append(out, w.run(&b))
	}
	return out
}

// run provokes one behaviour.
func (w *world) run(b *behaviour) string {
	if b.only && !w.second {
		return "skipped: needs our lab's routes"
	}
	if b.tls && w.tls == nil {
		return "skipped: needs our own listeners with TLS"
	}
	w.begin(b.origin)
	return b.do(w)
}

func skipped(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d skipped)", n)
}

var cell = strings.NewReplacer("|", "/", "\r", "", "\n", " ")

// report prints a table with a column per proxy, and fails when the first one
// is wrong anywhere.
func report(names []string, outcomes [][]string) error {
	fmt.Printf("| behaviour | %s |\n|---%s|\n", strings.Join(names, " | "), strings.Repeat("|---", len(names)))
	wrong, asked := make([]int, len(names)), make([]int, len(names))
	for i, b := range chosen {
		row := []string{b.name}
		for k := range names {
			mark := ""
			skip := strings.HasPrefix(outcomes[k][i], "skipped")
			if !skip {
				asked[k]++
			}
			if !skip && b.met(outcomes[k][i]) < 0 {
				mark = "**differs** "
				wrong[k]++
			}
			row = append(row, mark+cell.Replace(outcomes[k][i]))
		}
		fmt.Printf("| %s |\n", strings.Join(row, " | "))
	}
	var held []string
	for k, name := range names {
		held = append(held, fmt.Sprintf("%s %d of %d%s", name, asked[k]-wrong[k], asked[k], skipped(len(chosen)-asked[k])))
	}
	fmt.Printf("\nheld: %s\n", strings.Join(held, "; "))
	if wrong[0] > 0 {
		return fmt.Errorf("%s differs in %d of %d", names[0], wrong[0], len(chosen))
	}
	return nil
}
