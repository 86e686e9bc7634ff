package rig

import (
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// EndOnInterrupt makes SIGINT and SIGTERM end what this process has started, and
// then itself: proxies are in groups of their own, and would go on. Each of first
// is called before, for what has no parent any more. Directories stay.
// Who would report what then fails asks Interrupted first.
func EndOnInterrupt(first ...func()) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := <-asked
		interrupted.Store(true)
		signal.Stop(asked) // the second ends at once
		fmt.Fprintf(os.Stderr, "\n%v: ending what was started\n", s)
		for _, end := range first {
			end()
		}
		endFamily(3 * time.Second)
		os.Exit(128 + int(s.(syscall.Signal)))
	}()
}

var interrupted atomic.Bool

// Interrupted reports whether all is being ended.
func Interrupted() bool { return interrupted.Load() }

// endFamily ends all descendants of this process: gently, and after patience by
// SIGKILL.
func endFamily(patience time.Duration) {
	started := Family(os.Getpid())[1:]
	for _, pid := range started {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	for end := time.Now().Add(patience); time.Now().Before(end) && len(Family(os.Getpid())) > 1; {
		time.Sleep(20 * time.Millisecond)
	}
	for _, pid := range Family(os.Getpid())[1:] {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}
