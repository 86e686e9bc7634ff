package loop

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
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

type acceptFunc func(fd int)

func (f acceptFunc) Accepted(fd int, _ netip.AddrPort) { f(fd) }

// listenOn makes l accept, and returns where.
func listenOn(t *testing.T, l *Loop, f func(fd int)) string {
	t.Helper()
	addr, _ := listener(t, l, f)
	return addr
}

func listener(t *testing.T, l *Loop, f func(fd int)) (string, *Listener) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0) // Fd makes it blocking
	if err != nil {
		t.Fatal(err)
	}
	var lo *Listener
	on(t, l, func() {
		if lo, err = l.Listen(fd, acceptFunc(f)); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), lo
}

func TestAReceivedListenerIsMadeNonBlocking(t *testing.T) {
	l := running(t)
	_, ln := listener(t, l, func(fd int) { unix.Close(fd) })
	flags, err := unix.FcntlInt(uintptr(ln.fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
	fdFlags, _ := unix.FcntlInt(uintptr(ln.fd), unix.F_GETFD, 0)
	if fdFlags&unix.FD_CLOEXEC == 0 {
		t.Error("not close-on-exec")
	}
}

func TestWithoutDescriptorsAListenerRests(t *testing.T) {
	l := running(t)
	accepted := make(chan int, 10)
	addr, ln := listener(t, l, func(fd int) { accepted <- fd })
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	unix.Close(wait(t, accepted))

	second, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(second)
	full := exhaust(t)
	sa := netip.MustParseAddrPort(addr)
	if err := unix.Connect(second, &unix.SockaddrInet4{Port: int(sa.Port()), Addr: sa.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	turns := uint64(0)
	for ln.rests.Load() < 2 {
		runtime.Gosched()
		turns = l.Turns()
	}
	if turns > 1000 {
		t.Errorf("%d turns for two rests: it spins", turns)
	}
	full()
	unix.Close(wait(t, accepted))
}

// exhaust lowers the limit of descriptors to what is open, until called back.
func exhaust(t *testing.T) (undo func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	undone := false
	undo = func() {
		if !undone {
			undone = true
			unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		}
	}
	t.Cleanup(undo)
	return undo
}

func TestDial(t *testing.T) {
	l := running(t)
	accepted := make(chan int, 1)
	addr := netip.MustParseAddrPort(listenOn(t, l, func(fd int) { accepted <- fd }))
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, Remote{Addr: addr}, r); err != nil {
			t.Error(err)
		}
		r.conn.Write([]byte("early")) // goes out when connected
	})
	r.want(t, "connected")
	fd := wait(t, accepted)
	defer unix.Close(fd)
	b := make([]byte, 5)
	for n := 0; n < 5; {
		if m, err := unix.Read(fd, b[n:]); err == nil {
			n += m
		}
	}
	if string(b) != "early" {
		t.Errorf("got %q", b)
	}
	on(t, l, r.conn.Close)
}

func TestDialThatIsRefused(t *testing.T) {
	l := running(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, Remote{Addr: addr}, r); err != nil {
			r.events <- err.Error()
		}
	})
	r.want(t, "connect: connection refused")
}

func TestDialFromAnAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := running(t)
	to := Remote{Addr: ln.Addr().(*net.TCPAddr).AddrPort(), From: netip.MustParseAddr("127.0.0.2")}
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, to, r); err != nil {
			t.Error(err)
		}
	})
	r.want(t, "connected")
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.2" {
		t.Errorf("the connection comes from %s", got)
	}
	on(t, l, func() {
		r.conn.Close()
		to.From = netip.MustParseAddr("192.0.2.1")
		if err := new(Conn).Dial(l, to, r); !errors.Is(err, unix.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "bind to 192.0.2.1") {
			t.Errorf("from an address that is not ours: %v", err)
		}
	})
}

func TestDialUnix(t *testing.T) {
	l := running(t)
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := &recorder{events: make(chan string, 10)}
	on(t, l, func() {
		if err := r.conn.Dial(l, Remote{Path: path}, r); err != nil {
			t.Error(err)
		}
	})
	r.want(t, "connected")
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
		l.stall = 20 * Tick
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

// dialer counts how its connections fared.
type dialer struct {
	recorder
	how chan error
}

func (d *dialer) Connected(err error) { d.how <- err }

func TestManyConnectionsAreBegunInSeveralTurns(t *testing.T) {
	const many = 10 * dialsPerTurn
	l := running(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	how := make(chan error, many)
	conns := make([]dialer, many)
	on(t, l, func() {
		for i := range conns {
			d := &conns[i]
			d.how = how
			if err := d.conn.Dial(l, Remote{Addr: addr}, d); err != nil {
				t.Error(err)
			}
		}
		if l.dialed != dialsPerTurn || len(l.dials) != many-dialsPerTurn {
			t.Errorf("%d begun, %d put off", l.dialed, len(l.dials))
		}
		conns[many-1].conn.Close() // it is never begun
		again := &conns[many-2]    // and this one only once
		again.conn.Close()
		if err := again.conn.Dial(l, Remote{Addr: addr}, again); err != nil {
			t.Error(err)
		}
		conns[many-3].conn.Write([]byte("early"))
	})
	for range many - 1 {
		if err := wait(t, how); err != nil {
			t.Error(err)
		}
	}
	on(t, l, func() {
		if len(how) > 0 || len(l.dials) > 0 || l.dials == nil {
			t.Errorf("%d connections too many, %d put off", len(how), len(l.dials))
		}
		for i := range conns {
			conns[i].conn.Close()
		}
	})
	early := 0
	for range many - 1 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(c)
		early += len(b)
		c.Close()
	}
	if early != len("early") {
		t.Errorf("%d bytes arrived", early)
	}
}
