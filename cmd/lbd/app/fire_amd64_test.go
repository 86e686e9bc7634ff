package app

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/cluster"
)

var fire = flag.Int("fire", 9, "of so many system calls of a change one is interfered with; 1: each")

// Each change is made again and again, and each time something happens at another
// system call of its writes: lbd is killed before it, in the middle of it, or the disk
// says EIO or ENOSPC. What lbd has then is what was before or what was asked for, the
// one it said; whoever asks the workers meanwhile notices nothing. -fire 1 takes
// minutes.
func TestUnderFireAtAnySystemCallStateIsOldOrNew(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	s := newSite(t)
	l := &ledger{site: s, keys: []string{cluster.NewKey().String()}}
	if err := errors.Join(os.WriteFile(filepath.Join(s.dir, "key"), []byte(l.keys[0]+"\n"), 0o600), os.WriteFile(s.file(), []byte(l.settings()+l.objects(0)), 0o644)); err != nil {
		t.Fatal(err)
	}
	c := s.start()
	if err := errors.Join(l.call("POST", "/v1/config/adopt", ""), l.call("PUT", "/v1/config", l.objects(0))); err != nil {
		t.Fatal(err)
	}
	workers := s.pids()
	traffic := s.load(1)
	for kind, change := range []string{"a document", "a drain", "a step of a key rotation"} {
		for _, what := range []struct{ name, action string }{
			{"killed before", traceKill}, {"killed in the middle of", traceTear},
			{"EIO from", strconv.Itoa(int(unix.EIO))}, {"ENOSPC from", strconv.Itoa(int(unix.ENOSPC))},
		} {
			calls, met, refused, made := 0, 0, 0, 0
			for n := 1 + random.IntN(*fire); ; n += *fire {
				l.nextDocument, l.nextDrained, l.nextKeys = l.document, l.drained, l.keys
				tr := trace(t, c.Process.Pid, s.dir, what.action, n)
				err := l.change(kind)
				alive := what.action != traceKill && what.action != traceTear
				if err != nil && alive {
					l.nextDocument, l.nextDrained, l.nextKeys = l.document, l.drained, l.keys
					refused++
				}
				when := fmt.Sprintf("%s: %s call %d", change, what.name, n)
				if alive {
					l.compare(when)
				}
				c = s.restart(c)
				tr.end()
				if !tr.acted && err != nil {
					t.Fatalf("%s: %v, and nothing happened; the calls are %q", when, err, tr.calls)
				}
				l.compare(when + " of " + strings.Join(tr.calls, ", "))
				if !tr.acted {
					calls = len(tr.calls)
					break
				}
				met++
				if err == nil {
					made++
				}
			}
			t.Logf("%s, %s one of %d calls: %d times; %d made in spite of it, %d refused", change, what.name, calls, met, made, refused)
			if calls < 8 {
				t.Errorf("%s makes only %d system calls at files", change, calls)
			}
		}
	}
	if now := s.pids(); !slices.Equal(now, workers) {
		t.Errorf("workers %v, were %v", now, workers)
	}
	traffic.endUnfailed(t)
}

// The first start writes, too: whatever call of it is its last, the next start finds
// nothing in its way. A disk that fails leaves a balancer that serves, or says why not.
func TestUnderFireAtItsFirstStartNothingIsInTheWayOfTheNext(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for _, action := range []string{traceKill, traceTear, strconv.Itoa(int(unix.EIO))} {
		met, served := 0, 0
		for n, more := 1+random.IntN(*fire), true; more; n += *fire {
			s := newSite(t)
			c, tr := s.startTraced(action, n)
			ended := make(chan struct{})
			go func() { c.Process.Wait(); close(ended) }() // not c.Wait: workers hold its output
			s.until("it serves or ends", func() bool {
				select {
				case <-ended:
					return true
				default:
					return s.ready()
				}
			})
			if s.ready() {
				served++
			}
			c.Process.Kill()
			<-ended
			tr.end()
			if more = tr.acted; more {
				met++
			}
			when := fmt.Sprintf("%s call %d of %s", action, n, strings.Join(tr.calls, ", "))
			s.start()
			r, err := http.Get(s.url())
			if err != nil || r.StatusCode != http.StatusOK {
				t.Fatalf("%s: %v, %v", when, r, err)
			}
			r.Body.Close()
			s.killSupervisors()
			s.killWorkers()
		}
		t.Logf("%s: %d times; it served %d times", action, met, served)
		if met < 2 {
			t.Errorf("%s: only %d calls were met", action, met)
		}
	}
}

// startTraced starts lbd with a tracer from its first call on.
func (s *site) startTraced(action string, n int) (*exec.Cmd, *tracer) {
	s.t.Helper()
	s.enter = []string{"sh", "-c", `kill -STOP $$; exec "$@"`, "sh"}
	c := s.command("run", "-c", s.file())
	s.enter = nil
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.until("it stands still", func() bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
		return strings.Contains(string(text), ") T ")
	})
	tr := trace(s.t, c.Process.Pid, s.dir, action, n)
	c.Process.Signal(unix.SIGCONT)
	return c, tr
}
