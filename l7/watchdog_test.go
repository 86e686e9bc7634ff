package l7

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a log that a test may read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func holdsTheLoop(until func() bool) {
	for deadline := time.Now().Add(patience); !until() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

func TestALoopThatDoesNotTurnIsToldWithItsStack(t *testing.T) {
	log := new(lines)
	l := startLab(t, labOptions{log: slog.New(slog.NewTextHandler(log, nil))}, pool("127.0.0.1:9"))
	told := func() bool { return strings.Contains(log.String(), "holdsTheLoop") }
	done := make(chan struct{})
	l.proxy.threads[0].loop.Post(func() { holdsTheLoop(told); close(done) })
	<-done
	if !told() {
		t.Fatalf("the log does not name who holds the loop:\n%s", log)
	}
	l.until(func() bool { return l.proxy.threads[0].loop.SlowTurns() > 0 })
	if n := strings.Count(log.String(), "does not turn"); n != 1 {
		t.Errorf("told %d times within a minute, want once\n%s", n, log)
	}
}
