package worker

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A worker says when its loops last turned in a word that it shares with the
// programs in the kernel, so that other nodes hear of it whether the supervisor
// lives or not.

const (
	beatEvery  = 250 * time.Millisecond
	beatOfLate = time.Second // a loop that turned since serves
)

// SetPulse has all workers, now and from now on, write their pulse into the
// array that the descriptor is of. It must stay open.
func (f *Fleet) SetPulse(array int) {
	f.mu.Lock()
	f.pulse = array
	f.mu.Unlock()
	_ = each(f.everybody(), func(m *member) error { f.sendPulse(f.ctx, m, m.conn); return nil })
}

// sendPulse is tried once: a worker of an older lbd does not know how.
func (f *Fleet) sendPulse(ctx context.Context, m *member, c *conn) {
	f.mu.Lock()
	array := f.pulse
	f.mu.Unlock()
	if array <= 0 {
		return
	}
	if _, err := c.quick(ctx, opPulse, nil, []int{array}, nil); err != nil {
		f.options.Log.Debug("a worker has no pulse", "worker", m.socket, "err", err)
	}
}

// pulse is the worker's side: monotonic nanoseconds, the newest of all workers'.
type pulse struct {
	memory []byte
	word   *uint64
}

// pulse maps the array; the writer goes on with it.
func (p *process) pulse(fds []int) error {
	if len(fds) != 1 {
		return fmt.Errorf("%d descriptors for a pulse", len(fds))
	}
	memory, err := unix.Mmap(fds[0], 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the pulse: %w", err)
	}
	// What was mapped before stays so: it is a page, once per supervisor, and
	// the writer may be at it.
	if p.beats.Swap(&pulse{memory, (*uint64)(unsafe.Pointer(&memory[0]))}) == nil {
		go p.runPulse()
	}
	return nil
}

// runPulse writes for as long as the process lives.
func (p *process) runPulse() {
	for range time.Tick(beatEvery) {
		for _, beat := range p.server.Beats() {
			if time.Since(beat) < beatOfLate {
				p.beats.Load().beat()
				break
			}
		}
	}
}

func (b *pulse) beat() {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) == nil {
		atomic.StoreUint64(b.word, uint64(t.Nano()))
	}
}
