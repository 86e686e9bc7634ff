package worker

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Shutdown drains all workers, at most until ctx ends or the drain timeout of
// the configuration, ends them and closes all sockets. When ctx has ended it
// waits for nothing, not even for a change in progress.
func (f *Fleet) Shutdown(ctx context.Context) error {
	err := f.take(ctx)
	if errors.Is(err, ErrClosed) {
		return err
	}
	if err == nil {
		defer f.release()
	}
	f.mu.Lock()
	f.closed = true
	if f.crew != nil {
		f.leave(f.crew)
	}
	leaving := slices.Clone(f.leaving)
	f.mu.Unlock()

	timeout := f.drainTimeout()
	if end, ok := ctx.Deadline(); ok {
		timeout = max(0, min(timeout, time.Until(end)))
	}
	// Workers take what waits in their queues and close their duplicates; then
	// ours are the last, and who comes now is refused instead of kept waiting.
	f.drain(leaving, timeout)
	f.closeSockets()
	f.await(ctx, leaving, timeout+endGrace)
	f.letGo()
	_ = os.Remove(f.totalsPath())
	return nil
}

// await returns when all are gone; it kills who is left at the end.
func (f *Fleet) await(ctx context.Context, members []*member, timeout time.Duration) {
	over := time.After(timeout)
	for _, m := range members {
		select {
		case <-m.buried:
			continue
		case <-over:
		case <-ctx.Done():
		}
		for _, m := range members {
			m.signal(unix.SIGKILL)
		}
		break
	}
	for _, m := range members {
		<-m.buried // a killed process is gone soon, even a stopped one
	}
}

func (f *Fleet) closeSockets() {
	f.mu.Lock()
	defer f.mu.Unlock()
	closeGroups(f.groups)
	f.groups = nil
}

// Close lets go of the workers, which serve on by themselves. After Shutdown
// it does nothing.
func (f *Fleet) Close() error {
	f.mu.Lock()
	over := f.ctx.Err() != nil
	f.closed = true
	f.mu.Unlock()
	if over {
		return nil
	}
	f.saveStats()
	f.letGo()
	f.closeSockets()
	return nil
}

// letGo ends everything that is ours and of no worker: goroutines, control
// connections, the lock.
func (f *Fleet) letGo() {
	f.mu.Lock()
	f.end()
	f.mu.Unlock()
	f.work.Wait()
	f.lock.Close()
}
