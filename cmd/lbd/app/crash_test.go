package app

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestACrashOfAWorkerIsKept(t *testing.T) {
	s := newSite(t)
	c := s.start()
	for _, adopted := range []bool{false, true} {
		if adopted {
			c = s.restart(c)
		}
		victim := s.pids()[0]
		syscall.Kill(victim, syscall.SIGABRT) // the runtime says what its goroutines did
		s.until("it is replaced", func() bool {
			now := s.workers()
			return len(now) == 2 && now[0].PID != victim && now[0].State == "ready"
		})
		path := filepath.Join(s.dir, "run", "crash-0.txt")
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "goroutine ") {
			t.Errorf("adopted %v: got %v, %.200q", adopted, err, text)
		}
		os.Remove(path)
	}
}
