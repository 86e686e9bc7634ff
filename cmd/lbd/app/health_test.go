package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// Health is known over reloads, an upgrade of workers and supervisor, and the
// supervisor's death: a backend that is down stays down, so no request meets it;
// one that is up stays up; and nobody is probed more often than by its interval.
func TestHealthOutlivesReloadsUpgradesAndDeaths(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := newSite(t)
	const interval = 300 * time.Millisecond
	var checks [3]atomic.Int64
	var requests [3]atomic.Int64
	var pool []string
	for i := range checks {
		b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/health" {
				checks[i].Add(1)
				if i == 2 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				return
			}
			requests[i].Add(1)
			fmt.Fprintf(w, "backend %d", i)
		}))
		t.Cleanup(b.Close)
		pool = append(pool, b.Listener.Addr().String())
	}
	write := func(more string) {
		text := fmt.Sprintf(`
node: { name: test, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 1 }
fastpath: { mode: "off" }
log: { access: "off" }
drain: { timeout: 5s }
listeners:
  web: { bind: "127.0.0.1:%[2]d" }
routes:
%[3]s  - pool: app
pools:
  app:
    check: { http: /health, interval: %[4]s, timeout: 250ms, rise: 3, fall: 3 }
    backends: [%[5]q, %[6]q, %[7]q]
`, s.dir, s.port, more, interval, pool[0], pool[1], pool[2])
		if err := os.WriteFile(s.file(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	c := s.start()
	states := func() string {
		all, err := admin.Dial(s.socket()).Backends(t.Context())
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, b := range all {
			out = append(out, b.Health)
		}
		return strings.Join(out, " ")
	}
	s.until("the third is down", func() bool { return states() == "up up down" })
	l := s.load(2)
	s.until("workers know it", func() bool {
		before := requests[2].Load()
		sent := l.sent.Load()
		s.until("there are requests", func() bool { return l.sent.Load() > sent+50 })
		return requests[2].Load() == before
	})
	met := requests[2].Load()
	began := time.Now()
	var before [3]int64
	for i := range checks {
		before[i] = checks[i].Load()
	}
	still := func(after string) {
		t.Helper()
		if got := states(); got != "up up down" {
			t.Errorf("after %s: %s", after, got)
		}
		if n := requests[2].Load(); n > met {
			t.Errorf("%d requests met the backend that is down, before the end of %s", n-met, after)
			met = n
		}
	}
	for n := range 10 {
		write(fmt.Sprintf("  - match: { path: /%d }\n    respond: { status: 410 }\n", n))
		if err := s.order("POST", "/v1/config/reload", ""); err != nil {
			t.Fatal(err)
		}
		still("a reload")
	}
	for range 2 {
		var old []int
		s.until("a crew serves alone", func() bool { old = s.pids(); return len(old) == 2 })
		c.Process.Signal(syscall.SIGUSR2)
		s.until("new workers serve alone", func() bool {
			now := s.pids()
			return len(now) == 2 && !slices.Contains(now, old[0]) && !slices.Contains(now, old[1])
		})
		s.until("the supervisor serves", func() bool {
			status, err := admin.Dial(s.socket()).Status(t.Context())
			return err == nil && status.State == "serving"
		})
		still("an upgrade")
	}
	s.restart(c)
	still("a death")
	took := time.Since(began)
	l.endUnfailed(t)
	for i := range checks {
		n := checks[i].Load() - before[i]
		// An interval may be shortened by jitter; a death makes one probe go early.
		if most := int64(took/interval)*5/4 + 4; n > most {
			t.Errorf("backend %d was probed %d times in %v, at most %d are its own", i, n, took, most)
		}
	}
	t.Logf("%d requests, %d failed; %d probes of a backend in %v, one every %v", l.sent.Load(), l.failed.Load(), checks[0].Load()-before[0], took.Round(time.Millisecond), interval)
}
