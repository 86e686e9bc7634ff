// Command chaos runs lbd under checked load while it is upgraded, to good
// programs and to broken ones, reloaded, and while its processes are killed, in
// a random order that a seed repeats. It ends with a line for each kind of
// client: what was sent, what failed, what came back wrong, and how many
// connections lbd closed.
//
// Start at run; clients.go is the load, site.go what is done to lbd.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// plan is how much of everything there is.
type plan struct {
	plain, tls, h2, streams, tunnels, tcp int
	upgrades, kills, supervisors, reloads int
}

var (
	full  = plan{2000, 200, 50, 20, 100, 100, 50, 20, 20, 50}
	quick = plan{40, 8, 3, 5, 8, 8, 25, 5, 5, 15}
)

func main() {
	small := flag.Bool("quick", false, "about a minute instead of the whole load")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "repeats an order of events")
	lbd := flag.String("lbd", "bin/lbd", "the program")
	flag.Parse()
	p := full
	if *small {
		p = quick
	}
	ok, err := run(p, *seed, *lbd)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run reports whether nothing failed that need not.
func run(p plan, seed uint64, lbd string) (ok bool, err error) {
	s, err := newSite(lbd)
	if err != nil {
		return false, err
	}
	defer s.close()
	if err := s.start(); err != nil {
		return false, err
	}
	fmt.Printf("seed %d\n", seed)
	l := newLoad(s)
	l.start(p)
	began := time.Now()
	for i, e := range order(p, rand.New(rand.NewPCG(seed, 0))) {
		what, err := e(s, l)
		fmt.Printf("%6.1fs %2d %s\n", time.Since(began).Seconds(), i+1, what)
		if err == nil {
			err = s.settle()
		}
		if err != nil {
			l.end()
			return false, fmt.Errorf("%s: %w\n%s", what, err, s.tail())
		}
	}
	l.end()
	return l.report(os.Stdout, time.Since(began)), nil
}

// event does something to lbd and says what.
type event func(*site, *load) (string, error)

// order shuffles all events; every fifth upgrade is to a broken program.
func order(p plan, random *rand.Rand) []event {
	var all []event
	for i := range p.upgrades {
		if i%5 == 4 {
			kind := broken[i/5%len(broken)]
			all = append(all, func(s *site, l *load) (string, error) { return "upgrade to what " + kind.name, s.refuse(kind) })
			continue
		}
		all = append(all, func(s *site, _ *load) (string, error) { return "upgrade", s.upgrade(s.lbd) })
	}
	for range p.kills {
		n := random.IntN(2)
		all = append(all, func(s *site, l *load) (string, error) { return "kill a worker", s.killWorker(n, l.excuse) })
	}
	for range p.supervisors {
		all = append(all, func(s *site, _ *load) (string, error) { return "kill the supervisor", s.killSupervisor() })
	}
	for range p.reloads {
		n := random.IntN(1000)
		all = append(all, func(s *site, _ *load) (string, error) { return "reload", s.reload(n) })
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}
