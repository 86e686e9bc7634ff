// Command behave asks a proxy what it does with requests and responses that are
// odd, broken or hostile, byte by byte, and says what it saw.
//
//	go run ./bench/behave                          lbd, nginx and HAProxy, as far as they are here, side by side
//	go run ./bench/behave -proxy ADDR -origin ADDR a running proxy whose only backend is ADDR, which behave serves
//
// The behaviours are rows of a table (cases_*.go): how to provoke one, and the
// outcomes that are right, Cirque's first. The test of this package holds the
// proxy of this repository to the first outcome of each.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	proxy := flag.String("proxy", "", "address of a running proxy")
	backend := flag.String("origin", "127.0.0.1:0", "address to serve the origin at")
	head := flag.Duration("head-timeout", 0, "how long the proxy waits for a whole head")
	flag.Parse()
	if err := run(*proxy, *backend, *head); err != nil {
		fmt.Fprintln(os.Stderr, "behave:", err)
		os.Exit(1)
	}
}

func run(proxy, backend string, head time.Duration) error {
	o, err := startOrigin(backend)
	if err != nil {
		return fmt.Errorf("serve the origin: %w", err)
	}
	if proxy != "" {
		w := &world{proxy: proxy, origin: o, headTimeout: head}
		return report([]string{proxy}, [][]string{w.all()})
	}
	return comparePeers(o)
}

// all runs every behaviour and returns the outcomes.
func (w *world) all() []string {
	var out []string
	for _, b := range all() {
		out = append(out, w.run(&b))
	}
	return out
}

// run provokes one behaviour.
func (w *world) run(b *behaviour) string {
	if b.only && !w.second {
		return "skipped: needs our lab's routes"
	}
	w.begin(b.origin)
	return b.do(w)
}

var cell = strings.NewReplacer("|", "/", "\r", "", "\n", " ")

// report prints a table with a column per proxy, and fails when the first one
// is wrong anywhere.
func report(names []string, outcomes [][]string) error {
	fmt.Printf("| behaviour | %s |\n|---%s|\n", strings.Join(names, " | "), strings.Repeat("|---", len(names)))
	wrong := make([]int, len(names))
	for i, b := range all() {
		row := []string{b.name}
		for k := range names {
			mark := ""
			if b.met(outcomes[k][i]) < 0 && !strings.HasPrefix(outcomes[k][i], "skipped") {
				mark = "**differs** "
				wrong[k]++
			}
			row = append(row, mark+cell.Replace(outcomes[k][i]))
		}
		fmt.Printf("| %s |\n", strings.Join(row, " | "))
	}
	fmt.Printf("\nnot one of the outcomes wanted:")
	for k, name := range names {
		fmt.Printf(" %s %d of %d;", name, wrong[k], len(all()))
	}
	fmt.Println()
	if wrong[0] > 0 {
		return fmt.Errorf("%s differs in %d of %d", names[0], wrong[0], len(all()))
	}
	return nil
}
