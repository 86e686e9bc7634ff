package app

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A tracer stops lbd at each system call that names or has open a file of its
// state, as strace would, and does something to one of them: by ptrace, so what lbd
// meets is what a disk or a kill does, not what a seam in its code pretends. It is a
// process of its own, as whoever traces sees the stops of all that it waits for.
type tracer struct {
	t     *testing.T
	cmd   *exec.Cmd
	said  *bufio.Scanner
	calls []string // at files of the state, until the one it was for
	acted bool
}

// What a tracer does to a call.
const (
	traceKill = "kill" // SIGKILL before it is made
	traceTear = "tear" // a write: half of it is made, then SIGKILL; others: SIGKILL after it
	// Or an error's number: it is not made and fails.
)

const tracerEnv = "LBD_TEST_TRACE"

// trace acts on the n-th call that the process makes at files below dir, those in
// run/ and the audit log not among them.
func trace(t *testing.T, pid int, dir, action string, n int) *tracer {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(own, "-test.run=^TestTraceALbd$", "-test.v")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s %d", tracerEnv, pid, dir, action, n))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	tr := &tracer{t: t, cmd: c, said: bufio.NewScanner(out)}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	for tr.said.Scan() {
		switch text := tr.said.Text(); {
		case text == "attached":
			return tr
		case strings.HasPrefix(text, "refused: "):
			t.Skip(text)
		}
	}
	t.Fatal("the tracer ended")
	return nil
}

// end waits for the end of the process that was traced, and of the tracer.
func (tr *tracer) end() {
	tr.t.Helper()
	for tr.said.Scan() {
		word, text, _ := strings.Cut(tr.said.Text(), ": ")
		switch word {
		case "call":
			tr.calls = append(tr.calls, text)
		case "acted":
			tr.acted = true
		}
	}
	if err := tr.cmd.Wait(); err != nil {
		tr.t.Fatalf("the tracer: %v", err)
	}
}

// TestTraceALbd is the tracer's process.
func TestTraceALbd(t *testing.T) {
	order := os.Getenv(tracerEnv)
	if order == "" {
		t.Skip("the tracer of TestKilledAtAnySystemCall and its like")
	}
	l := &traced{inCall: map[int]func(){}}
	if _, err := fmt.Sscan(order, &l.pid, &l.dir, &l.action, &l.n); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // who attaches is a thread
	if err := l.attach(); err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println("attached")
	if err := l.run(); err != nil {
		t.Fatal(err)
	}
}

// traced is a process as its tracer sees it.
type traced struct {
	pid    int
	dir    string
	action string
	n      int

	seen   int
	inCall map[int]func() // by thread: what to do when its call returns
}

// attach seizes all threads and stops them; those that come are seized with them.
func (l *traced) attach() error {
	const seize, options = 0x4206, unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	known := map[string]bool{}
	for fresh := true; fresh; {
		fresh = false
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", l.pid))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("no threads of %d, %v", l.pid, err)
		}
		for _, path := range tasks {
			if known[path] {
				continue
			}
			known[path], fresh = true, true
			tid, _ := strconv.Atoi(filepath.Base(path))
			_, _, failed := unix.RawSyscall6(unix.SYS_PTRACE, seize, uintptr(tid), 0, options, 0, 0)
			if failed == unix.ESRCH || failed == unix.EPERM && len(known) > 1 {
				continue // it has ended, or came with another
			}
			if failed != 0 {
				return failed
			}
			if err := unix.PtraceInterrupt(tid); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}

// run lets the process go on from stop to stop until it ends.
func (l *traced) run() error {
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD:
			return nil
		case err != nil:
			return err
		case !status.Stopped():
			continue
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == unix.SIGTRAP|0x80:
			if err := l.call(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		case int(status)>>16 != 0: // a clone, or the stop that we asked for
		default:
			signal = int(stop)
		}
		if err := unix.PtraceSyscall(tid, signal); err != nil && err != unix.ESRCH { // killed meanwhile
			return err
		}
	}
}

// call is at the begin of a system call, or at its end.
func (l *traced) call(tid int) error {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return err
	}
	if then, ends := l.inCall[tid]; ends {
		delete(l.inCall, tid)
		then()
		return nil
	}
	// A thread that was inside of a call when we came is at its end first.
	if int64(r.Rax) != -int64(unix.ENOSYS) {
		return nil
	}
	l.inCall[tid] = func() {}
	name, file := l.about(tid, &r)
	if file == "" {
		return nil
	}
	l.seen++
	fmt.Printf("call: %s %s\n", name, file)
	if l.seen != l.n {
		return nil
	}
	fmt.Println("acted: now")
	switch l.action {
	case traceKill:
		return unix.Kill(l.pid, unix.SIGKILL)
	case traceTear:
		if r.Orig_rax == unix.SYS_WRITE {
			r.Rdx /= 2
		}
		l.inCall[tid] = func() { unix.Kill(l.pid, unix.SIGKILL) }
		return unix.PtraceSetRegs(tid, &r)
	}
	errno, err := strconv.Atoi(l.action)
	if err != nil {
		return err
	}
	if r.Orig_rax != unix.SYS_CLOSE { // a descriptor is gone whatever close says
		r.Orig_rax = ^uint64(0)
	}
	l.inCall[tid] = func() {
		if unix.PtraceGetRegs(tid, &r) == nil {
			r.Rax = uint64(-int64(errno))
			_ = unix.PtraceSetRegs(tid, &r)
		}
	}
	return unix.PtraceSetRegs(tid, &r)
}

// About which file a call is: one that it names, or one that is open.
var (
	namedBy = map[uint64]string{unix.SYS_OPENAT: "openat", unix.SYS_NEWFSTATAT: "fstatat", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
		unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_LINKAT: "linkat"}
	openAs = map[uint64]string{unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_PREAD64: "pread", unix.SYS_PWRITE64: "pwrite", unix.SYS_FSYNC: "fsync",
		unix.SYS_FDATASYNC: "fdatasync", unix.SYS_CLOSE: "close", unix.SYS_FSTAT: "fstat", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_GETDENTS64: "getdents",
		unix.SYS_LSEEK: "lseek", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHOWN: "fchown", unix.SYS_FALLOCATE: "fallocate"}
)

func (l *traced) about(tid int, r *unix.PtraceRegs) (name, file string) {
	if name = namedBy[r.Orig_rax]; name != "" {
		if file = l.text(uintptr(r.Rsi)); file == "" {
			file, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", l.pid, int32(r.Rdi))) // fstatat of what is open
		}
	} else if name = openAs[r.Orig_rax]; name != "" {
		file, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", l.pid, int32(r.Rdi)))
	}
	rest, ours := strings.CutPrefix(file, l.dir)
	switch {
	case strings.HasPrefix(file, filepath.Join(os.TempDir(), ".key")): // how a new file of keys begins
	case !ours, strings.HasPrefix(rest, "/run"), strings.HasSuffix(rest, "/audit.log"), rest == "/lbd.yaml":
		return "", ""
	}
	return name, file
}

// text reads a string of the process.
func (l *traced) text(at uintptr) string {
	buf := make([]byte, 512)
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", l.pid))
	if err != nil {
		return ""
	}
	defer memory.Close()
	n, _ := memory.ReadAt(buf, int64(at))
	text, _, whole := bytes.Cut(buf[:n], []byte{0})
	if !whole {
		return ""
	}
	return string(text)
}
