// Command idle holds many idle keep-alive connections at one lbd and says what
// each of them costs: the growth of the worker's resident memory by the
// connection, and the CPU time of a request beside them.
//
// The CPU time is measured in rounds: before the connections are there, while
// they are, and when they have gone again. What differs before and after is the
// machine's doing, not theirs.
//
// Every connection has had one response before it idles. They come from several
// addresses of 127/8, for one has not enough ports, and from several processes
// when the limit of open files is low; lbd has as many workers then. It exits
// with 1 when the target is missed or a connection was lost. Start at main, then
// run; holders.go is the clients' side.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bench/rig"
	"github.com/cirque-lb/lb/l7/certtest"
)

// Growth of RSS by one idle connection, at most.
const (
	plainTarget = 500
	tlsTarget   = 12_000
)

func main() {
	log.SetFlags(0)
	binary := flag.String("lbd", "bin/lbd", "the lbd binary")
	n := flag.Int("n", 100_000, "connections")
	secure := flag.Bool("tls", false, "over TLS: use fewer, for all must be there before the first has idled for 75 s")
	holder := flag.String("holder", "", "for ourselves: hold -n connections to this address")
	block := flag.Int("block", 0, "for ourselves: where their addresses begin")
	requests := flag.Int("requests", 100_000, "requests to measure, without and with the idle ones beside them")
	flag.Parse()
	if *holder != "" {
		hold(*holder, *n, *block, *secure)
		return
	}
	rig.EndOnInterrupt()
	if err := run(*binary, *n, *requests, *secure); err != nil {
		log.Fatalf("bench: %v", err)
	}
}

func run(binary string, n, requests int, secure bool) error {
	files, err := raiseFiles(uint64(n) + 4096)
	if err != nil {
		return err
	}
	workers := (n + files*3/4 - 1) / (files * 3 / 4) // the kernel does not spread them evenly
	s, err := start(binary, workers, secure)
	if err != nil {
		return err
	}
	defer s.stop()
	first, err := s.hold(1000*workers, files, 0) // whatever is allocated once
	defer first.end()
	if err != nil {
		return err
	}
	alone, err := s.costs(requests)
	if err != nil {
		return err
	}
	before, begun := s.resident(), time.Now()
	held, err := s.hold(n, files, 1)
	defer held.end() // once more does no harm
	if err != nil {
		return err
	}
	took := time.Since(begun)
	each := float64(s.resident()-before) / float64(n)
	beside, err := s.costs(requests)
	if err != nil {
		return err
	}
	if lost, err := held.lost(); lost > 0 || err != nil {
		return fmt.Errorf("%d of %d connections were lost: %v", lost, n, err)
	}
	held.end()
	again, err := s.costs(requests)
	if err != nil {
		return err
	}
	target := float64(plainTarget)
	if secure {
		target = tlsTarget
	}
	fmt.Printf("%d idle connections of %d workers, made in %.1f s: %.0f bytes each (target <= %.0f)\n", n, workers, took.Seconds(), each, target)
	fmt.Println("CPU per request, median [spread] of 5 rounds, and its user part:")
	alone.print("before they came")
	beside.print("beside them")
	again.print("after they left")
	if each > target {
		return fmt.Errorf("an idle connection costs %.0f bytes, target <= %.0f", each, target)
	}
	return nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// server is an lbd whose workers have one thread each, and an origin behind it.
type server struct {
	dir     string
	addr    string
	secure  bool
	lbd     *exec.Cmd
	workers []int
	origin  net.Listener
}

func start(binary string, workers int, secure bool) (*server, error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lbd-idle-")
	if err != nil {
		return nil, err
	}
	if os.Getuid() == 0 { // the worker drops privileges
		os.Chmod(dir, 0o755)
	}
	s := &server{dir: dir, secure: secure}
	if s.origin, err = serveOrigin(); err != nil {
		return nil, err
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.addr = probe.Addr().String()
	probe.Close()
	if err := s.configure(workers); err != nil {
		return nil, err
	}
	s.lbd = exec.Command(path, "run", "-c", dir+"/lbd.yaml")
	s.lbd.Dir = dir
	out, err := os.Create(dir + "/log")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.lbd.Stdout, s.lbd.Stderr = out, out
	if err := s.lbd.Start(); err != nil {
		return nil, err
	}
	return s, s.wait(workers)
}

func (s *server) configure(workers int) error {
	listener := fmt.Sprintf("bind: %q", s.addr)
	if s.secure {
		if err := certtest.SelfSigned(24*time.Hour, "idle.example").Write(s.dir, "cert"); err != nil {
			return err
		}
		listener += fmt.Sprintf(", protocol: https, tls: { certificates: [ { cert: %[1]s/cert.pem, key: %[1]s/cert.key } ] }", s.dir)
	}
	return os.WriteFile(s.dir+"/lbd.yaml", fmt.Appendf(nil, `
node: { name: idle, data_dir: %[1]s/data, run_dir: %[1]s/run }
workers: { processes: %[4]d, threads: 1 }
fastpath: { mode: off }
log: { access: off }
admin: { http: "" }
limits: { connections: 1000000, per_client: off }
listeners: { web: { %[2]s } }
routes: [ { pool: app } ]
pools: { app: { backends: [ %[3]q ] } }
`, s.dir, listener, s.origin.Addr(), workers), 0o644)
}

// wait waits until requests are answered, and finds the workers.
func (s *server) wait(workers int) error {
	for range 200 {
		if c, err := dial(s.addr, 0, s.secure); err == nil {
			fine := answers(c)
			c.Close()
			if s.workers = childrenOf(s.lbd.Process.Pid); fine && len(s.workers) == workers {
				return nil
			}
		}
		time.Sleep(25 * time.Millisecond)
	}
	said, _ := os.ReadFile(s.dir + "/log")
	s.stop()
	return fmt.Errorf("lbd does not answer; it said:\n%s", said)
}

// childrenOf asks all threads, for a child belongs to the one that started it.
func childrenOf(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		list, _ := os.ReadFile(t)
		for _, f := range strings.Fields(string(list)) {
			pid, _ := strconv.Atoi(f)
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *server) stop() {
	s.lbd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(30*time.Second, func() { s.lbd.Process.Kill() })
	defer timer.Stop()
	s.lbd.Wait()
	s.origin.Close()
	os.RemoveAll(s.dir)
}

// usage is CPU time.
type usage struct{ total, user time.Duration }

// rounds are measurements of the same, sorted by the total.
type rounds []usage

func (s *server) costs(requests int) (all rounds, err error) {
	for range 5 {
		u, err := s.cost(requests / 5)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b usage) int { return cmp.Compare(a.total, b.total) })
	return all, nil
}

func (r rounds) print(when string) {
	m := r[len(r)/2]
	fmt.Printf("  %-18s %6.1f us [%.1f .. %.1f], user %.1f\n", when, us(m.total), us(r[0].total), us(r[len(r)-1].total), us(m.user))
}

// cost is the workers' CPU time by the request, for 16 busy connections.
func (s *server) cost(requests int) (usage, error) {
	const busy = 16
	before := s.cpu()
	var lost atomic.Int64
	var running sync.WaitGroup
	for range busy {
		running.Go(func() {
			c, err := dial(s.addr, 250<<8, s.secure)
			if err != nil {
				lost.Add(1)
				return
			}
			defer c.Close()
			for range requests / busy {
				if !answers(c) {
					lost.Add(1)
					return
				}
			}
		})
	}
	running.Wait()
	after := s.cpu()
	if n := lost.Load(); n > 0 {
		return usage{}, fmt.Errorf("%d of %d busy connections were lost", n, busy)
	}
	done := time.Duration(requests / busy * busy)
	return usage{(after.total - before.total) / done, (after.user - before.user) / done}, nil
}

func (s *server) cpu() (sum usage) {
	for _, w := range s.workers {
		u := cpuOf(w)
		sum.total += u.total
		sum.user += u.user
	}
	return sum
}

// cpuOf reads user and system time, the 14th and 15th field.
func cpuOf(pid int) usage {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 13 {
		return usage{}
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return usage{time.Duration(user+system) * tick, time.Duration(user) * tick}
}

// resident is the workers' RSS in bytes.
func (s *server) resident() (sum int) {
	for _, w := range s.workers {
		statm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", w))
		if f := strings.Fields(string(statm)); len(f) > 1 {
			pages, _ := strconv.Atoi(f[1])
			sum += pages * os.Getpagesize()
		}
	}
	return sum
}

// raiseFiles makes room for n descriptors, or as many as there may be, here and
// in the processes started, and returns how many.
func raiseFiles(n uint64) (int, error) {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return 0, err
	}
	limit := unix.Rlimit{Cur: n, Max: max(n, have.Max)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		return int(n), nil
	}
	limit = unix.Rlimit{Cur: have.Max, Max: have.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files to %d: %w", have.Max, err)
	}
	return int(have.Max), nil
}
