// Command chaos runs a proxy under checked load while it is upgraded, to good
// programs and to broken ones, reloaded, and while its processes are killed, in
// a random order that a seed repeats. It ends with a line for each kind of
// client: what was sent, what failed, what came back wrong, how many
// connections the proxy closed, and what a killed worker took with it.
//
// Only a connection that a killed worker held when it died may fail: the worker
// is stopped, its sockets are read from /proc, then it is killed.
//
// Start at run; load.go is the accounting, clients.go what they say, site.go
// what is done to lbd, peers.go what is done to nginx and HAProxy.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

// plan is how much of everything there is.
type plan struct {
	plain, tls, h2, streams, tunnels, tcp int
	upgrades, kills, supervisors, reloads int
	rate                                  float64 // requests per second, of all clients
}

var (
	full  = plan{2000, 200, 50, 20, 100, 100, 50, 20, 20, 50, 2000}
	quick = plan{100, 20, 5, 10, 20, 20, 30, 5, 5, 15, 1500}
)

// subject is a proxy under test.
type subject interface {
	start() error
	ports() ports
	events(plan, *rand.Rand, *load) []event
	settle() error // returns when what was done is over
	tail() string  // what it said last
	close()
}

// ports are where a subject listens; 0: it cannot.
type ports struct{ web, tls, raw int }

// event does something to the subject and says what.
type event struct {
	what string
	do   func() error
}

func main() {
	small := flag.Bool("quick", false, "about a minute instead of the whole load")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "repeats an order of events")
	lbd := flag.String("lbd", "bin/lbd", "the program")
	peer := flag.String("peer", "lbd", "lbd, nginx or haproxy")
	rate := flag.Float64("rate", 0, "requests per second, of all clients; 0: the plan's")
	logTo := flag.String("log", "", "a file for all that the proxy says, and all that failed")
	flag.IntVar(&most, "events", 1<<20, "stop after so many")
	rush := flag.Bool("rush", false, "instead: 100 upgrades of lbd in a minute, at half of the most it can serve")
	flag.Parse()
	if *logTo != "" {
		f, err := os.Create(*logTo)
		if err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(2)
		}
		said, failures = f, f
	}
	p := full
	if *small {
		p = quick
	}
	if *rate > 0 {
		p.rate = *rate
	}
	ok, err := with(*peer, *lbd, func(s subject) (bool, error) {
		if lbd, is := s.(*site); is && *rush {
			return runRush(lbd)
		}
		return run(s, p, *seed)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// most bounds the events.
var most int

// with starts a subject for do.
func with(name, lbd string, do func(subject) (bool, error)) (bool, error) {
	s, err := newSubject(name, lbd)
	if err != nil {
		return false, err
	}
	defer s.close()
	rig.EndOnInterrupt(s.close) // successors and daemons are nobody's children
	if err := s.start(); err != nil {
		return false, fmt.Errorf("%w\n%s", err, s.tail())
	}
	return do(s)
}

func newSubject(name, lbd string) (subject, error) {
	switch name {
	case "lbd":
		return newSite(lbd)
	case "nginx", "haproxy":
		return newPeer(name)
	}
	return nil, fmt.Errorf("no peer %q; there are %s", name, strings.Join([]string{"lbd", "nginx", "haproxy"}, ", "))
}

// run reports whether nothing failed that need not.
func run(s subject, p plan, seed uint64) (ok bool, err error) {
	fmt.Printf("seed %d\n", seed)
	l := newLoad()
	l.start(s.ports(), p)
	defer l.end()
	if err := l.await(); err != nil {
		return false, err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	all := s.events(p, random, l)
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	began := time.Now()
	for i, e := range all[:min(len(all), most)] {
		at := time.Since(began)
		before := l.sum()
		err := e.do()
		if err == nil {
			err = s.settle()
		}
		if rig.Interrupted() {
			select {} // nothing is told of what we end ourselves
		}
		after := l.sum()
		fmt.Printf("%s %6.1fs %3d %-40s %6.0f ms, %d sent, %d failed, %d wrong, %d closed, %d of a killed worker\n", began.Add(at).Format("15:04:05.000"), at.Seconds(), i+1, e.what, (time.Since(began)-at).Seconds()*1e3,
			after.sent-before.sent, after.failed-before.failed, after.wrong-before.wrong, after.closed-before.closed, after.excused-before.excused)
		if err != nil {
			l.end()
			l.report(os.Stdout, time.Since(began))
			return false, fmt.Errorf("%s: %w\n%s", e.what, err, s.tail())
		}
	}
	l.end()
	return l.report(os.Stdout, time.Since(began)), nil
}
