package loop

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

// running starts a loop that ends with the test.
func running(t *testing.T) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); run.Wait() })
	return l
}

// on runs f on the loop and waits for it.
func on(t *testing.T, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	l.Post(func() { f(); close(done) })
	wait(t, done)
}

func wait[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing happened")
	}
	return v
}

// recorder is a user that tells a channel what it hears.
type recorder struct {
	conn    Conn
	events  chan string
	onBytes func(r *recorder, p []byte)
}

func (r *recorder) Received(p []byte) {
	if r.onBytes != nil {
		r.onBytes(r, p)
		return
	}
	r.events <- string(p)
}
func (r *recorder) Drained() { r.events <- "drained" }
func (r *recorder) Ended(err error) {
	switch {
	case err == io.EOF:
		r.events <- "EOF"
	case errors.Is(err, unix.ECONNRESET):
		r.events <- "reset"
	default:
		r.events <- err.Error()
	}
}
func (r *recorder) Connected(err error) {
	if err == nil {
		r.events <- "connected"
		return
	}
	r.events <- err.Error()
}

// pair is a connection of l and its other end, blocking, in the test's hands.
func pair(t *testing.T, l *Loop, r *recorder) *net.UnixConn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[1]), "peer")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r.events = make(chan string, 100)
	on(t, l, func() {
		if err := r.conn.Init(l, fds[0], r); err != nil {
			t.Error(err)
		}
	})
	return c.(*net.UnixConn)
}

func (r *recorder) want(t *testing.T, want string) {
	t.Helper()
	if got := wait(t, r.events); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func read(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBytesGoBothWaysAndEnd(t *testing.T) {
	l := running(t)
	r := new(recorder)
	c := pair(t, l, r)
	c.Write([]byte("hello"))
	r.want(t, "hello")
	on(t, l, func() { r.conn.Write([]byte("a")); r.conn.Write([]byte("b")); r.conn.CloseWrite() })
	if got := read(t, c, 2); got != "ab" {
		t.Errorf("got %q", got)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %d, %v, want EOF", n, err)
	}
	c.Write([]byte("still"))
	r.want(t, "still")
	c.Close()
	r.want(t, "EOF")
	on(t, l, r.conn.Close)
}

func TestWritesOfATurnGoOutTogether(t *testing.T) {
	l := running(t)
	r := new(recorder)
	c := pair(t, l, r)
	on(t, l, func() {
		for range 1000 {
			r.conn.Write([]byte("x"))
		}
		if r.conn.Taken() != 0 || r.conn.Buffered() != 1000 {
			t.Errorf("taken %d, buffered %d", r.conn.Taken(), r.conn.Buffered())
		}
	})
	on(t, l, func() {
		if r.conn.Taken() != 1000 || r.conn.Buffered() != 0 {
			t.Errorf("taken %d, buffered %d", r.conn.Taken(), r.conn.Buffered())
		}
	})
	if got := read(t, c, 1000); strings.Trim(got, "x") != "" {
		t.Errorf("got %q", got)
	}
}

func TestAPausedConnectionIsSilent(t *testing.T) {
	l := running(t)
	r := new(recorder)
	c := pair(t, l, r)
	on(t, l, r.conn.Pause)
	c.Write([]byte("later"))
	on(t, l, func() {}) // a turn in which the event came
	on(t, l, func() {})
	if len(r.events) > 0 {
		t.Fatalf("got %q while paused", <-r.events)
	}
	on(t, l, r.conn.Resume)
	r.want(t, "later")
}

func TestASlowReaderIsWaitedFor(t *testing.T) {
	l := running(t)
	r := new(recorder)
	c := pair(t, l, r)
	big := strings.Repeat("0123456789", 1<<20)
	on(t, l, func() { r.conn.Write([]byte("head ")); r.conn.Write([]byte(big)) })
	on(t, l, func() {
		if r.conn.Buffered() == 0 {
			t.Error("nothing waits")
		}
	})
	if got := read(t, c, len(big)+5); got != "head "+big {
		t.Error("other bytes arrived")
	}
	r.want(t, "drained")
	on(t, l, func() {
		r.conn.Write([]byte(big))
		r.conn.Finish()
	})
	if got, _ := io.ReadAll(c); string(got) != big {
		t.Errorf("%d bytes arrived, want %d", len(got), len(big))
	}
	on(t, l, func() {
		if !r.conn.Closed() {
			t.Error("not closed after Finish")
		}
	})
}

func TestAPeerThatReadsNothingIsGivenUp(t *testing.T) {
	l := running(t)
	r := new(recorder)
	pair(t, l, r)
	on(t, l, func() { l.stall = 2 * Tick; r.conn.Write(make([]byte, 10<<20)) })
	r.want(t, ErrStalled.Error())
	on(t, l, r.conn.Close)
}

// An event that was fetched before its connection was closed must not reach
// whoever has the place in the table by then.
func TestStaleEventsAreDropped(t *testing.T) {
	l := running(t)
	var second recorder
	var first, closer recorder
	c1, c2 := pair(t, l, &closer), pair(t, l, &first)
	pair(t, l, &second)
	on(t, l, second.conn.Close) // makes room
	both := func(r *recorder, p []byte) {
		if first.conn.Closed() || closer.conn.Closed() {
			return // only the one that comes first acts
		}
		other := &first
		if r == &first {
			other = &closer
		}
		other.conn.Close()
		fds, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		unix.Write(fds[1], []byte("new"))
		second.conn.Init(l, fds[0], &second)
		if second.conn.index != other.conn.index {
			t.Errorf("the new one is at %d, not %d", second.conn.index, other.conn.index)
		}
	}
	closer.onBytes, first.onBytes = both, both
	on(t, l, func() { // both events are in one batch
		c1.Write([]byte("x"))
		c2.Write([]byte("y"))
	})
	second.want(t, "new")
}

func TestALoopTakesAConnectionFromAnother(t *testing.T) {
	a, b := running(t), running(t)
	r := &recorder{}
	c := pair(t, a, r)
	fd := r.conn.Steal()
	moved := &recorder{events: make(chan string, 10)}
	on(t, b, func() { moved.conn.Init(b, fd, moved) })
	c.Write([]byte("hello"))
	moved.want(t, "hello")
	on(t, a, r.conn.Forget)
	on(t, b, func() { moved.conn.Write([]byte("back")) })
	if got := read(t, c, 4); got != "back" {
		t.Errorf("got %q", got)
	}
	if len(r.events) > 0 {
		t.Errorf("its old loop said %q", <-r.events)
	}
	on(t, b, moved.conn.Close)
}

func TestPostFromManyGoroutines(t *testing.T) {
	l := running(t)
	const n = 1000
	sum := 0
	var posting sync.WaitGroup
	for range 10 {
		posting.Go(func() {
			for range n {
				l.Post(func() { sum++ })
			}
		})
	}
	posting.Wait()
	on(t, l, func() {
		if sum != 10*n {
			t.Errorf("%d of %d ran", sum, 10*n)
		}
	})
}

// The host's clock may be set, by hours, while we run.
func TestABeatIsOfNoWallClock(t *testing.T) {
	l := running(t)
	if beat := l.Beat(); !strings.Contains(beat.String(), " m=") {
		t.Errorf("the beat %s has no monotonic reading: a clock that is set makes its age", beat)
	}
	on(t, l, func() { // as if it had been set since
		l.wall = l.wall.Round(0).Add(-time.Hour)
		l.wallAt -= time.Second
	})
	on(t, l, func() {
		if off := time.Since(l.Time().Round(0)).Abs(); off > time.Minute {
			t.Errorf("the loop's clock is %s off", off)
		}
	})
}

func TestAnIdleLoopBeats(t *testing.T) {
	l := running(t)
	for first := l.Beat(); l.Beat() == first; {
		if time.Since(first) > patience {
			t.Fatal("no beat")
		}
		runtime.Gosched()
	}
}

func TestAPeerThatReadsTooSlowlyIsGivenUp(t *testing.T) {
	l := running(t)
	r := new(recorder)
	c := pair(t, l, r)
	on(t, l, func() {
		l.stall = 64 * Tick // in which a busy machine lets the reader read, too
		l.Pace(1 << 40)
		r.conn.Write(make([]byte, 64<<20))
	})
	go func() { // ends with the connection
		for {
			if _, err := io.CopyN(io.Discard, c, 64<<10); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	r.want(t, ErrSlow.Error())
	on(t, l, r.conn.Close)
}
