// Command soak runs lbd for long under a load of all kinds at once: plain and
// TLS, HTTP/1 and HTTP/2, WebSockets and TCP, clients that go in the middle of
// something and clients that are slow, backends that come and go, and now and
// then a reload. Each response is checked against its request. It measures at
// rest, before and after: memory, descriptors and goroutines must not have
// grown.
//
//	make soak DURATION=20m SEED=1
//
// Requests under /calm/ go to backends that are well: none may fail. Those under
// /flaky/ may fail while their backend does; no response may be wrong, or look
// whole when it is not.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

func main() {
	duration := flag.Duration("duration", 20*time.Minute, "of the load")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "repeats what clients and backends choose")
	lbd := flag.String("lbd", "bin/lbd", "the program")
	flag.Parse()
	rig.EndOnInterrupt()
	ok, err := run(*lbd, *duration, *seed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

const (
	sampleEvery = time.Minute
	reloadEvery = 45 * time.Second
)

// warmUp is the load before the first measurement: what is allocated once is.
func warmUp(d time.Duration) time.Duration { return min(d/4, time.Minute) }

func run(lbd string, d time.Duration, seed uint64) (ok bool, err error) {
	fmt.Printf("seed %d\n", seed)
	s, err := start(lbd, seed)
	if err != nil {
		return false, err
	}
	defer s.stop()
	warm := newLoad(s, seed)
	warm.run(warmUp(d), nil)
	before, err := s.rest()
	if err != nil {
		return false, err
	}
	fmt.Printf("at rest, before: %v\n", before)
	l := newLoad(s, seed+1)
	var samples []int64
	l.run(d, func(since time.Duration) {
		m := s.measure()
		samples = append(samples, m.own())
		fmt.Printf("%8s  %v  %v\n", since.Round(time.Second), l, m)
	})
	after, err := s.rest()
	if err != nil {
		return false, err
	}
	fmt.Printf("at rest, after: %v\n", after)
	l.report(os.Stdout)
	s.book.report(os.Stdout, filepath.Join(s.dir, "access.log"))
	grown := before.grown(after)
	ok = l.good() && warm.good() && grown == "" && !s.ended()
	verdict := "ok"
	if !ok {
		verdict = "NOT OK " + grown + ", the access log is in " + s.dir
		s.keep = true
	}
	from, to := trend(samples)
	fmt.Printf("soak %v seed %d: %v; at rest %d -> %d MiB, fds %d -> %d, goroutines %d -> %d; under load %.1f -> %.1f MiB: %s\n", d, seed, l,
		before.own()>>20, after.own()>>20, before.fds, after.fds, before.goroutines, after.goroutines, float64(from)/(1<<20), float64(to)/(1<<20), verdict)
	return ok, nil
}
