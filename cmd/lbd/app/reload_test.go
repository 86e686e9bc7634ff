package app

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

var reloads = flag.Int("reloads", 30, "how often the file is reloaded under load")

// footprint is what a process holds.
type footprint struct{ files, threads, pages int }

func (s *site) footprint(pid int) (u footprint) {
	s.t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	threads, more := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	memory, most := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err := errors.Join(err, more, most); err != nil {
		s.t.Fatal(err)
	}
	u.files, u.threads = len(files), len(threads)
	var size int
	fmt.Sscan(string(memory), &size, &u.pages)
	return u
}

// order is an order to the admin API.
func (s *site) order(method, path, body string) error {
	l := ledger{site: s}
	return l.call(method, path, body)
}

// Reloads under load cost no request, and leave nothing behind. -reloads 1000
// takes its time.
func TestReloadsUnderLoadLeaveNothingBehind(t *testing.T) {
	s := newSite(t)
	c := s.start()
	all := append(s.pids(), c.Process.Pid)
	l := s.load(4)
	reload := func(n int) {
		s.configure(fmt.Sprintf("  - match: { path: /%d }\n    respond: { status: 410 }", n))
		if err := s.order("POST", "/v1/config/reload", ""); err != nil {
			t.Fatal(err)
		}
	}
	warm := 10 + *reloads/5
	for n := range warm {
		reload(n)
	}
	goroutines := s.goroutines()
	before := map[int]footprint{}
	for _, pid := range all {
		before[pid] = s.footprint(pid)
	}
	began := time.Now()
	for n := range *reloads {
		reload(warm + n)
	}
	took := time.Since(began)
	l.end()
	for _, pid := range all {
		var now footprint
		was := before[pid]
		s.until("descriptors and memory are as before", func() bool {
			now = s.footprint(pid)
			// The load's own connections come and go; a heap has its cycle.
			return now.files <= was.files+8 && now.pages <= was.pages*3/2+4000
		})
		t.Logf("pid %d: %+v, then %+v", pid, was, now)
	}
	s.until("goroutines are as before", func() bool { return s.goroutines() <= goroutines+8 })
	if got := s.pids(); len(got) != 2 || got[0] != all[0] || got[1] != all[1] {
		t.Errorf("workers %v, want %v", got, all[:2])
	}
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d requests failed; the first: %v", l.failed.Load(), l.sent.Load(), l.first)
	}
	t.Logf("%d reloads, %v each; goroutines %d, then %d; %d requests, %d failed", *reloads, (took / time.Duration(*reloads)).Round(time.Microsecond), goroutines, s.goroutines(), l.sent.Load(), l.failed.Load())
}

// goroutines is how many the supervisor and its workers have.
func (s *site) goroutines() (all int) {
	s.t.Helper()
	r, err := s.admin().Get("http://lbd/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		var n int
		name, value, _ := strings.Cut(lines.Text(), " ")
		if strings.HasPrefix(name, "lbd_worker_goroutines") || name == "go_goroutines" {
			fmt.Sscan(value, &n)
			all += n
		}
	}
	return all
}

// A document of 10 000 backends and 1 000 routes is applied while a client asks
// all the time: what matters is how long it waits at most.
func TestALargeDocumentIsAppliedBesideRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := newSite(t)
	s.start()
	if err := s.order("POST", "/v1/config/adopt", ""); err != nil {
		t.Fatal(err)
	}
	worst := make(chan [2]time.Duration)
	stop, warm := make(chan bool), make(chan bool)
	go func() {
		var calm, longest time.Duration
		client := &http.Client{Timeout: 20 * time.Second}
		for n := 0; ; n++ {
			select {
			case <-stop:
				worst <- [2]time.Duration{calm, longest}
				return
			default:
			}
			began := time.Now()
			r, err := client.Get(s.url())
			if err != nil || r.StatusCode != 200 {
				t.Errorf("request %d: %v, %v", n, r, err)
				worst <- [2]time.Duration{}
				return
			}
			r.Body.Close()
			if took := time.Since(began); n < 500 {
				calm = max(calm, took)
			} else {
				longest = max(longest, took)
			}
			if n == 500 {
				close(warm)
			}
		}
	}()
	<-warm
	began := time.Now()
	if err := s.order("PUT", "/v1/config", s.large(1000, 10000)); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	began = time.Now()
	if err := s.order("PUT", "/v1/config", s.large(999, 10000)); err != nil {
		t.Fatal(err)
	}
	again := time.Since(began)
	close(stop)
	w := <-worst
	t.Logf("applied in %v, changed in %v; the longest request took %v, %v before", took.Round(time.Millisecond), again.Round(time.Millisecond), w[1].Round(time.Microsecond), w[0].Round(time.Microsecond))
	if w[1] > 5*time.Second {
		t.Errorf("a request waited %v", w[1])
	}
}

func (s *site) large(routes, backends int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners:\n  web: { bind: \"127.0.0.1:%d\" }\nroutes:\n", s.port)
	const pools = 100
	for i := range routes - 1 {
		fmt.Fprintf(&b, "  - { match: { host: [h%d.example], path: /p%d/ }, pool: p%d }\n", i, i, i%pools)
	}
	fmt.Fprintf(&b, "  - pool: app\npools:\n  app: { backends: [%q, %q] }\n", s.pool[0], s.pool[1])
	for p := range pools {
		fmt.Fprintf(&b, "  p%d:\n    backends:\n", p)
		for i := range backends / pools {
			fmt.Fprintf(&b, "      - \"10.1.%d.%d:80\"\n", p, i+1)
		}
	}
	return b.String()
}

// Without anybody to wait for, SIGTERM is the end at once.
func TestAnIdleLbdEndsAtOnce(t *testing.T) {
	const tries = 3
	var took []time.Duration
	for range tries {
		s := newSite(t)
		c := s.start()
		workers := s.pids()
		began := time.Now()
		c.Process.Signal(syscall.SIGTERM)
		s.until("it is gone", func() bool { return syscall.Kill(c.Process.Pid, 0) == syscall.ESRCH })
		took = append(took, time.Since(began))
		for _, pid := range workers {
			if syscall.Kill(pid, 0) == nil {
				t.Errorf("worker %d is left", pid)
			}
		}
		if took[len(took)-1] < time.Second {
			t.Logf("ended in %v", took)
			return
		}
	}
	t.Errorf("it took %v", took)
}
