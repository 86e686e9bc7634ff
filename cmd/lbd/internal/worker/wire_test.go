package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// pair is both ends of a control connection.
func pair(t testing.TB) (a, b *conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = newConn(c.(*net.UnixConn))
		t.Cleanup(ends[i].close)
	}
	return ends[0], ends[1]
}

func countFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// sent is a file to send, and how often we have it open. Other descriptors come
// and go with what earlier tests left running.
func sent(t *testing.T) (*os.File, func() int) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "sent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, func() (n int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); target == f.Name() {
				n++
			}
		}
		return n
	}
}

func TestDescriptorsArriveWithTheirMessage(t *testing.T) {
	a, b := pair(t)
	file, count := sent(t)
	many := make([]int, maxFDs)
	for i := range many {
		many[i] = int(file.Fd())
	}
	go func() {
		a.send(message{ID: 1, Op: "few"}, strings.Repeat("x", 1<<20), many[:2]) // more than a socket's buffer
		a.send(message{ID: 2, Op: "none"}, nil, nil)
		a.send(message{ID: 3, Op: "many"}, nil, many)
	}()
	for _, want := range []struct {
		op  string
		fds int
	}{{"few", 2}, {"none", 0}, {"many", maxFDs}} {
		m, err := b.receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Op != want.op || len(m.fds) != want.fds {
			t.Errorf("%s came with %d descriptors, want %s with %d", m.Op, len(m.fds), want.op, want.fds)
		}
		for _, fd := range m.fds {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Fatalf("descriptor %d would be inherited (%v)", fd, err)
			}
		}
		closeAll(m.fds)
	}
	if n := count(); n != 1 {
		t.Errorf("the file is open %d times", n)
	}
}

func TestBadFramesAreRefusedAndTheirDescriptorsClosed(t *testing.T) {
	file, count := sent(t)
	size := func(n uint32, text string) []byte { return append(binary.BigEndian.AppendUint32(nil, n), text...) }
	for _, c := range []struct {
		name  string
		frame []byte
		fds   int
	}{
		{"too large", size(maxMessage+1, ""), 0},
		{"cut", size(100, `{"id":1`), 0},
		{"no JSON", size(4, "abcd"), 1},
		{"descriptors nobody announced", size(2, "{}"), 1},
		{"announced ones are missing", size(9, `{"fds":2}`), 1},
	} {
		a, b := pair(t)
		var rights []byte
		if c.fds > 0 {
			rights = unix.UnixRights(int(file.Fd()))
		}
		if _, _, err := a.unix.WriteMsgUnix(c.frame, rights, nil); err != nil {
			t.Fatal(err)
		}
		a.unix.CloseWrite()
		if m, err := b.receive(); err == nil {
			t.Errorf("%s: accepted as %+v", c.name, m)
		}
		if n := count(); n != 1 {
			t.Errorf("%s: the file is open %d times", c.name, n)
		}
	}
	a, _ := pair(t)
	if err := a.send(message{}, nil, make([]int, maxFDs+1)); err == nil {
		t.Error("too many descriptors were sent")
	}
}

func TestACallEndsWithItsAnswerItsTimeOrItsConnection(t *testing.T) {
	a, b := pair(t)
	go a.runReplies(func(message) {})

	go func() {
		m, _ := b.receive()
		b.send(message{ID: m.ID, Fault: newFault(lb.Errors{{Code: "LB1", Line: 7, Message: "no"}})}, nil, nil)
	}()
	var es lb.Errors
	if _, err := a.call(t.Context(), "one", nil, nil, nil); !errors.As(err, &es) || es[0].Line != 7 {
		t.Errorf("error %v, want the document's with its line", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := a.call(ctx, "two", nil, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want a timeout", err)
	}

	go func() { b.receive(); b.receive(); b.close() }()
	if _, err := a.call(t.Context(), "three", nil, nil, nil); err == nil || !strings.Contains(err.Error(), "connection to the worker ended") {
		t.Errorf("error %v, want the end of the connection", err)
	}
	if _, err := a.call(t.Context(), "four", nil, nil, nil); err == nil {
		t.Error("a call on an ended connection succeeded")
	}
}

func FuzzReceive(f *testing.F) {
	good, _ := encode(message{ID: 1, Op: opPing}, pong{[]int64{1}}, 0)
	f.Add(good)
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, bytes []byte) {
		if len(bytes) > 1<<16 {
			return // does not fit the socket's buffer
		}
		a, b := pair(t)
		a.unix.Write(bytes)
		a.unix.CloseWrite()
		for {
			m, err := b.receive()
			if err != nil {
				return
			}
			closeAll(m.fds)
		}
	})
}
