// Package loop is the reactor: one epoll loop per thread, with connections, a
// timer wheel, buffers and cross-thread wake-ups.
//
// A Loop and all that belongs to it may be used only from its own thread, that
// is from within its callbacks, except for Post, Beat and Conn.Steal. Nothing
// that is called may block. Start at Loop.Run, then Conn.
package loop

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxIO bounds one read or write. A raw system call holds up the garbage
	// collector's stop-the-world for as long as it copies.
	MaxIO = 256 << 10
	// yieldAfter is when a busy loop lets others run: before the runtime's
	// monitor would preempt it with a signal, at 10 ms. Each time wakes threads
	// of the runtime in vain, so not sooner.
	yieldAfter = 9 * time.Millisecond
	// napTime is how long a wait blocks at first without telling the scheduler.
	// Most waits of a busy loop are shorter; a longer one must not keep a
	// processor.
	napTime = time.Millisecond
	// maxSleep bounds a wait, so that Beat shows an idle loop to be alive.
	maxSleep = 500 * time.Millisecond
	// slowTurn is what a turn must not take.
	slowTurn = 10 * time.Millisecond
)

// Loop is one thread's reactor.
type Loop struct {
	epoll  int
	wake   int                // eventfd
	table  []*[pageSize]entry // in pages, so that growing copies and leaves nothing
	free   []uint32           // indices into table
	events [256]unix.EpollEvent
	input  []byte // what every read of this loop reads into

	start   time.Time     // epoch
	now     time.Duration // since start, at the turn's beginning
	wall    time.Time     // what the host's clock said at a moment of late, wallAt
	wallAt  time.Duration
	yielded time.Duration
	slept   bool // since the last turn, for longer than a nap
	stopped bool

	stall time.Duration // stallTimeout, but for tests
	rate  int64         // bytes per second that a blocked write must come on

	wheel wheel
	dirty []*Conn  // written to in this turn
	later []Runner // to run before the turn ends
	spare buffers

	dialed int    // connections begun in this turn
	dials  []dial // those that have to wait for the next
	known  []dial // of them, those for who is known
	putOff uint32 // how often that was

	strain strain

	stalls []*stall // spare ones of connections that were blocked: at most as many as were at once

	mu     sync.Mutex
	posted []func() // guarded by mu
	taken  []func() // posted's twin, to swap with

	beat  atomic.Int64 // of now, for other threads
	slow  atomic.Uint64
	rests atomic.Uint64 // of listeners
	turns atomic.Uint64
	owing atomic.Int64  // connections that Finish and have not written all yet
	naps  atomic.Uint64 // how often it fell asleep or woke up: odd while it sleeps

	goroutine atomic.Int64 // what Run runs on
}

// entry is what the data of an epoll event, (index, generation), leads to.
type entry struct {
	generation uint32
	target     target
}

// pageSize is how many entries the table grows by.
const pageSize = 256

// target is told of its descriptor's events.
type target interface{ ready(events uint32) }

// Runner is something to do later in the turn.
type Runner interface{ RunLater() }

// epoch is when all loops' clocks began: what one says another understands.
var epoch = time.Now()

// New makes a loop. Close it by running it, or by Close.
func New() (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	l := &Loop{epoll: epoll, wake: wake, start: epoch, stall: stallTimeout, input: make([]byte, MaxIO)}
	l.strain.loop, l.strain.kernel = l, kernelWants()
	l.wheel.init()
	l.readWall()
	l.now = l.wallAt
	l.wheel.done = int64(l.now / Tick)
	l.beat.Store(int64(l.now))
	if _, _, err := l.register(wake, unix.EPOLLIN, (*waker)(l)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close gives the descriptors of a loop back that does not run; the connections
// and listeners on it are closed without a word.
func (l *Loop) Close() {
	for _, page := range l.table {
		for i := range page {
			if c, ok := page[i].target.(interface{ abandon() }); ok {
				c.abandon()
			}
		}
	}
	l.table = nil
	unix.Close(l.epoll)
	l.mu.Lock()
	defer l.mu.Unlock()
	unix.Close(l.wake)
	l.wake = -1
}

// Run turns the loop on the calling goroutine until ctx ends, then closes it.
func (l *Loop) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.Post(func() { l.stopped = true }) })
	defer stop()
	defer l.Close()
	l.goroutine.Store(goroutine())
	for !l.stopped {
		if err := l.turn(); err != nil {
			return err
		}
	}
	return nil
}

// turn waits, tells the targets, runs timers and what was put off, and sends
// what was written meanwhile.
func (l *Loop) turn() error {
	n, err := l.wait()
	if err != nil {
		return err
	}
	l.tick()
	l.dispatch(n)
	l.wheel.advance(l.now)
	l.dialMore()
	l.finishTurn()
	return nil
}

// tick reads the clock, once a turn.
func (l *Loop) tick() {
	now := time.Since(l.start)
	l.noteTurn(now)
	l.now = now
	l.beat.Store(int64(l.now))
	if l.now-l.wallAt >= time.Second {
		l.readWall()
	}
	l.turns.Add(1)
	if l.now-l.yielded > yieldAfter {
		l.yielded = l.now
		runtime.Gosched()
	}
}

// readWall looks at the host's clock again: it may be set while we run, and a
// guest's goes on while the guest is asleep.
func (l *Loop) readWall() {
	l.wall = time.Now()
	l.wallAt = l.wall.Sub(l.start)
}

// noteTurn counts a turn that took too long. If the loop slept since, its end
// was noted then.
func (l *Loop) noteTurn(end time.Duration) {
	if !l.slept && end-l.now > slowTurn {
		l.slow.Add(1)
	}
	l.slept = false
}

// dispatch tells the targets of n events. An event whose generation is not the
// table's is of a descriptor that an earlier one of the batch closed.
func (l *Loop) dispatch(n int) {
	for i := range n {
		e := &l.events[i]
		entry := l.entry(uint32(e.Fd))
		if entry.generation == uint32(e.Pad) && entry.target != nil {
			entry.target.ready(e.Events)
		}
	}
}

// maxRounds bounds how often writes of one turn may lead to more writes in it.
const maxRounds = 8

// finishTurn runs what was put off and flushes what was written; either may
// lead to the other. What is left goes on in the next turn.
func (l *Loop) finishTurn() {
	for range maxRounds {
		if len(l.later) == 0 && len(l.dirty) == 0 {
			return
		}
		l.runLater()
		l.flush()
	}
}

func (l *Loop) runLater() {
	n := len(l.later)
	for i := range n {
		l.later[i].RunLater()
	}
	l.later = slices.Delete(l.later, 0, n)
}

func (l *Loop) flush() {
	n := len(l.dirty)
	for i := range n {
		c := l.dirty[i]
		c.dirty = false
		c.flush()
	}
	l.dirty = slices.Delete(l.dirty, 0, n)
}

// Later runs r before this turn ends, after the events of the turn.
func (l *Loop) Later(r Runner) { l.later = append(l.later, r) }

// Now is the time since all loops' clocks began, as of this turn's beginning.
func (l *Loop) Now() time.Duration { return l.now }

// Time is Now as a wall-clock time.
func (l *Loop) Time() time.Time { return l.At(l.now) }

// Clock is Now, but read now.
func (l *Loop) Clock() time.Duration { return time.Since(l.start) }

// At is the wall-clock time of a moment that Now gave.
func (l *Loop) At(d time.Duration) time.Time { return l.wall.Add(d - l.wallAt) }

// Beat is when the loop last turned, with a monotonic reading: how long ago that
// was does not depend on who sets the host's clock. Any thread may ask.
func (l *Loop) Beat() time.Time { return l.start.Add(time.Duration(l.beat.Load())) }

// Rests counts how often a listener rested because it got no descriptor. Any
// thread may ask.
func (l *Loop) Rests() uint64 { return l.rests.Load() }

// Owing is how many connections will close when their peers have taken what was
// written. Any thread may ask.
func (l *Loop) Owing() int { return int(l.owing.Load()) }

// SlowTurns counts turns that took over 10 ms. Any thread may ask.
func (l *Loop) SlowTurns() uint64 { return l.slow.Load() }

// Turns counts turns. Any thread may ask.
func (l *Loop) Turns() uint64 { return l.turns.Load() }

// Strained counts connections that ended with ErrStrain. Any thread may ask.
func (l *Loop) Strained() uint64 { return l.strain.ended.Load() }

// Pulse is how far the loop has come, and whether it is at work. As long as it
// stays the same and at work, it is in one turn. Any thread may ask.
func (l *Loop) Pulse() (p Pulse, working bool) {
	p = Pulse{l.turns.Load(), l.naps.Load()}
	return p, p.turns > 0 && p.naps%2 == 0
}

// Pulse is a moment in a loop's life.
type Pulse struct{ turns, naps uint64 }

// Goroutine is the number, as in a traceback, of the goroutine that runs the
// loop; 0 before. Any thread may ask.
func (l *Loop) Goroutine() int64 { return l.goroutine.Load() }

// goroutine is the number of the calling one. The runtime tells it only so.
func goroutine() (n int64) {
	var b [32]byte
	for _, c := range b[len("goroutine "):runtime.Stack(b[:], false)] {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// Pace ends connections whose peer takes less than so many bytes per second
// while a write is blocked; 0: it must take something.
func (l *Loop) Pace(bytesPerSecond int64) { l.rate = bytesPerSecond }

// Patience is how long a write may be blocked without any progress.
func (l *Loop) Patience() time.Duration { return l.stall }

// Least is how much a peer must take in a time, at least a byte.
func (l *Loop) Least(of time.Duration) int64 { return max(1, int64(float64(l.rate)*of.Seconds())) }

// Input is the buffer that connections of this loop read into. TLS, which reads
// by itself, may use it too: what is in it is gone when the callback returns.
func (l *Loop) Input() []byte { return l.input }

// Post runs f on the loop soon. Any thread may call it; after the loop's end f
// is dropped.
func (l *Loop) Post(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 && l.wake >= 0 {
		one := [8]byte{1}
		rawWrite(l.wake, one[:])
	}
}

// waker is the loop as the target of its eventfd.
type waker Loop

func (w *waker) ready(uint32) {
	l := (*Loop)(w)
	var count [8]byte
	raw(unix.SYS_READ, l.wake, count[:])
	l.mu.Lock()
	l.posted, l.taken = l.taken[:0], l.posted
	l.mu.Unlock()
	for i, f := range l.taken {
		l.taken[i] = nil
		f()
	}
}
