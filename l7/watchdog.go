package l7

import (
	"bytes"
	"context"
	"runtime"
	"strconv"
	"time"

	"github.com/cirque-lb/lb/l7/loop"
)

const (
	// A loop is looked at this often while one of them is at work: one that is
	// seen twice in the same turn holds everybody up for longer than that.
	watchEvery = 10 * time.Millisecond
	// watchIdle is how often when all sleep.
	watchIdle = 100 * time.Millisecond
	// stackEvery bounds how often a stack is taken, for which the world stops,
	// and logged. All slow turns are counted, by the loops.
	stackEvery = time.Minute
	maxStack   = 4 << 10 // of it that is logged
)

// watchdog looks whether the loops turn, and says what holds one up.
type watchdog struct {
	proxy  *Proxy
	seen   []loop.Pulse
	told   []loop.Pulse // turns that were told of already
	last   time.Time    // when a stack was logged
	silent int          // stalls since, not logged
	dump   []byte
}

// runWatchdog watches until ctx ends.
func (p *Proxy) runWatchdog(ctx context.Context) {
	w := &watchdog{proxy: p, seen: make([]loop.Pulse, len(p.threads)), told: make([]loop.Pulse, len(p.threads))}
	timer := time.NewTimer(watchEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := watchIdle
		if w.look() {
			next = watchEvery
		}
		timer.Reset(next)
	}
}

// look reports whether a loop is at work.
func (w *watchdog) look() (working bool) {
	for i, t := range w.proxy.threads {
		pulse, busy := t.loop.Pulse()
		if busy && pulse == w.seen[i] && pulse != w.told[i] {
			w.told[i] = pulse
			w.tell(t, pulse)
		}
		if busy || pulse != w.seen[i] {
			working = true
		}
		w.seen[i] = pulse
	}
	return working
}

// tell logs what a loop is doing.
func (w *watchdog) tell(t *thread, pulse loop.Pulse) {
	if time.Since(w.last) < stackEvery {
		w.silent++
		return
	}
	stack := w.stack(t.loop.Goroutine())
	if now, _ := t.loop.Pulse(); now != pulse {
		stack = "it went on before it could be looked at"
	}
	w.proxy.log.Warn("a loop does not turn", "thread", t.index,
		"for_at_least", watchEvery, "not_logged_before", w.silent, "stack", stack)
	w.last, w.silent = time.Now(), 0
}

// stack is a goroutine's.
func (w *watchdog) stack(goroutine int64) string {
	if w.dump == nil {
		w.dump = make([]byte, 1<<20)
	}
	all := w.dump[:runtime.Stack(w.dump, true)]
	header := []byte("goroutine " + strconv.FormatInt(goroutine, 10) + " ")
	for block := range bytes.SplitSeq(all, []byte("\n\n")) {
		if bytes.HasPrefix(block, header) {
			return string(block[:min(len(block), maxStack)])
		}
	}
	return "not among the first"
}
