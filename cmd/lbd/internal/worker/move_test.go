package worker

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/l7"
)

// hands is a mover that counts what it has, by the connections' numbers.
type hands struct {
	mu      sync.Mutex
	refuses func(l7.Handed) error
	got     []uint32 // imported
	back    []uint32
	gave    int
	over    bool // nothing is to be given any more
}

func (h *hands) Export(give func(l7.Handed)) { h.do(func() { h.over = give == nil }) }
func (h *hands) Gave(n int)                  { h.do(func() { h.gave += n }) }
func (h *hands) TakeBack(c l7.Handed) {
	h.do(func() { h.back = append(h.back, c.Served) })
	closeAll(c.FDs)
}

func (h *hands) Accepts(c l7.Handed) error {
	if h.refuses != nil {
		return h.refuses(c)
	}
	return nil
}

func (h *hands) Import(c l7.Handed) error {
	h.do(func() { h.got = append(h.got, c.Served) })
	closeAll(c.FDs)
	return nil
}

func (h *hands) do(what func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what()
}

func (h *hands) is(ok func() bool) func() bool {
	return func() (is bool) { h.do(func() { is = ok() }); return is }
}

// testLine is a pair of connected ends.
func testLine(t *testing.T) (a, b *conn) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	made := make([]*conn, 2)
	for i, fd := range ends {
		f := os.NewFile(uintptr(fd), "line")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		made[i] = newConn(c.(*net.UnixConn))
	}
	return made[0], made[1]
}

// newGiver gives n connections, of a socket each, over a line.
func newGiver(t *testing.T, server *hands, line *conn, n int) *giver {
	t.Helper()
	p := &process{log: slog.New(slog.NewTextHandler(testLog(), nil))}
	g := &giver{process: p, server: server, line: line, wake: make(chan struct{}, 1), another: make(chan *conn, 1)}
	for i := range n {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		g.put(l7.Handed{Version: l7.HandedVersion, Served: uint32(i), FDs: []int{fd}})
	}
	go g.runGive()
	return g
}

func take(t *testing.T, c *conn, server *hands) {
	p := &process{log: slog.New(slog.NewTextHandler(testLog(), nil))}
	go p.runTake(c, server)
}

// More connections than a message can carry sockets of go in several, the next
// after the verdict on the one before; all arrive, once, in order.
func TestMoreConnectionsThanAMessageCarriesMoveInBatches(t *testing.T) {
	from, to := &hands{}, &hands{}
	a, b := testLine(t)
	const n = 2*maxFDs + 7
	before := countFiles(t)
	newGiver(t, from, a, n)
	take(t, b, to)
	until(t, "all have moved", to.is(func() bool { return len(to.got) == n }))
	until(t, "all are counted out", from.is(func() bool { return from.gave == n }))
	if !slices.IsSorted(to.got) || len(from.back) > 0 {
		t.Errorf("got %v, back %v", to.got, from.back)
	}
	until(t, "no descriptor is left", func() bool { return countFiles(t) <= before })
}

// What of a batch is refused, as of a version that is not known, goes on where it
// was; the rest moves.
func TestWhatOfABatchIsRefusedGoesOnWhereItWas(t *testing.T) {
	from, to := &hands{}, &hands{refuses: func(h l7.Handed) error {
		if h.Served%3 == 0 {
			return errors.New("a connection of version 2")
		}
		return nil
	}}
	a, b := testLine(t)
	newGiver(t, from, a, 300)
	take(t, b, to)
	until(t, "each is here or there", from.is(func() bool { return len(from.back) == 100 && from.gave == 200 }))
	until(t, "the rest has moved", to.is(func() bool { return len(to.got) == 200 }))
	for _, n := range to.got {
		if n%3 == 0 {
			t.Errorf("connection %d was refused and moved", n)
		}
	}
}

// A taker that says nothing may have a batch or not: that is let go of, as two
// processes at one connection are worse. What was not sent yet goes on here.
func TestAVerdictThatDoesNotComeCostsOneBatchOnly(t *testing.T) {
	moveTimeout = 200 * time.Millisecond
	t.Cleanup(func() { moveTimeout = defaultMoveTimeout })
	from := &hands{}
	a, b := testLine(t)
	const n = maxFDs + 20
	newGiver(t, from, a, n)
	until(t, "what was not sent is back", from.is(func() bool { return from.over && len(from.back) == 20 }))
	if from.do(func() {}); from.gave != maxFDs {
		t.Errorf("%d were let go of, want the %d of the batch", from.gave, maxFDs)
	}
	m, err := b.receive()
	if err != nil {
		t.Fatal(err)
	}
	closeAll(m.fds)
}

// A taker that dies without a verdict has touched nothing: another one takes its
// batch, in part if it refuses some.
func TestABatchWhoseTakerDiedGoesToAnother(t *testing.T) {
	from, to := &hands{}, &hands{}
	a, b := testLine(t)
	g := newGiver(t, from, a, 40)
	m, err := b.receive()
	if err != nil {
		t.Fatal(err)
	}
	closeAll(m.fds)
	c, d := testLine(t)
	if !g.keep(c) {
		t.Fatal("the giver has ended")
	}
	take(t, d, to)
	b.close()
	until(t, "another has them", to.is(func() bool { return len(to.got) == 40 }))
	if from.do(func() {}); len(from.back) > 0 {
		t.Errorf("back are %v", from.back)
	}
}

// Nobody to take them: all go on here.
func TestABatchThatNobodyTakesGoesOnWhereItWas(t *testing.T) {
	from := &hands{}
	a, b := testLine(t)
	newGiver(t, from, a, 40)
	b.close()
	until(t, "all are back", from.is(func() bool { return from.over && len(from.back) == 40 && from.gave == 0 }))
}
