package l7

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/cirque-lb/lb"
)

// Connections count for their listener as long as they are open.
func TestOpenConnectionsAreCountedByListener(t *testing.T) {
	l := startLab(t, labOptions{}, "listeners: { web: { bind: \"127.0.0.1:1\" } }\nroutes: [{ respond: { status: 204 } }]\n")
	open := func() string {
		for _, s := range l.proxy.openSamples() {
			if s.Name == "lbd_connections" {
				return fmt.Sprintf("%s=%v", s.Labels[1], s.Value)
			}
		}
		return "none"
	}
	a, b := l.dial(), l.dial()
	a.get("/")
	b.get("/")
	if got := open(); got != "web=2" {
		t.Errorf("open are %s, want web=2", got)
	}
	a.Close()
	b.Close()
	for l.proxy.connections.Load() > 0 { // the loop is another goroutine
		runtime.Gosched()
	}
	if got := open(); got != "web=0" {
		t.Errorf("open are %s, want web=0", got)
	}
}

// Answers are timed per backend, failures are not.
func TestAnswersAreTimedByBackend(t *testing.T) {
	var a, b histogram
	if a.timing() != nil {
		t.Error("nothing counted is a timing")
	}
	a.observe(2_000_000)      // 2 ms
	b.observe(2_000_000_000)  // 2 s
	b.observe(70_000_000_000) // 70 s: above all bounds
	sum := a.timing().Add(b.timing()).Add(nil).Add(&lb.Timing{Counts: []uint64{1}})
	if sum.Sum != 72.002 || sum.Counts[3] != 1 || sum.Counts[12] != 1 || sum.Counts[len(lb.TimingBounds)] != 1 {
		t.Errorf("sum %+v", sum)
	}
}
