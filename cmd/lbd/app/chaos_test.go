package app

import (
	"math/rand/v2"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// A supervisor that dies at any moment of an upgrade or a reload leaves one
// crew that serves, and the next supervisor finds which.
func TestASupervisorMayDieAtAnyMoment(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many processes")
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	s := newSite(t)
	c := s.start()
	l := s.load(4)
	for range 12 {
		signal := []syscall.Signal{syscall.SIGUSR2, syscall.SIGHUP}[random.IntN(2)]
		if signal == syscall.SIGHUP {
			s.configure("  - match: { path: /" + string(rune('a'+random.IntN(26))) + " }\n    respond: { status: 410 }")
		}
		c.Process.Signal(signal)
		// The moment is the test: an upgrade takes about 100 ms here.
		<-time.After(time.Duration(random.IntN(150)) * time.Millisecond)
		c = s.restart(c)
		s.until("one crew of two serves", func() bool {
			ready := 0
			for _, w := range s.workers() {
				if w.State == "ready" {
					ready++
				}
			}
			return ready == 2
		})
	}
	s.until("old crews are gone", func() bool { return len(s.pids()) == 2 })
	l.endUnfailed(t)
}

func TestAKilledWorkerFailsOnlyWhatItHadAccepted(t *testing.T) {
	const clients, kills = 8, 4
	s := newSite(t)
	s.start()
	l := s.load(clients)
	for i := range kills {
		victim := s.pids()[i%2]
		sent := l.sent.Load()
		s.until("there is load", func() bool { return l.sent.Load() > sent+100 })
		syscall.Kill(victim, syscall.SIGKILL)
		s.until("it is replaced", func() bool {
			now := s.workers()
			return len(now) == 2 && now[0].State == "ready" && now[1].State == "ready" && now[i%2].PID != victim
		})
	}
	l.end()
	// Every client has one request under way when a worker dies.
	if l.refused.Load() > 0 || l.failed.Load() > clients*kills {
		t.Errorf("%d of %d requests failed, %d of them to connect; the first: %v", l.failed.Load(), l.sent.Load(), l.refused.Load(), l.first)
	}
	t.Logf("%d kills: %d requests, %d failed, none to connect", kills, l.sent.Load(), l.failed.Load())
}

// restart kills the supervisor and starts another.
func (s *site) restart(c *exec.Cmd) *exec.Cmd {
	s.t.Helper()
	c.Process.Kill()
	s.until("it is gone", func() bool { return syscall.Kill(c.Process.Pid, 0) == syscall.ESRCH })
	return s.start()
}
