package worker

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors that a worker finds open when it starts.
const (
	fdControl = 3 // the listening control socket
	fdBinary  = 4 // its own program; it closes it
	fdAccess  = 5 // the access log, when there is one
)

// nobody is who workers are when there is no user for them.
const nobody = 65534

// defaultUser is who they are when the configuration names no one.
const defaultUser = "lbd"

// credential is who workers run as, and a line for the status when that is not
// what one may expect. Nil: as we do.
func credential(name string) (*syscall.Credential, string, error) {
	if uid := os.Geteuid(); uid != 0 {
		return nil, fmt.Sprintf("workers run as uid %d, as lbd does: without root nothing separates them", uid), nil
	}
	if name == "" {
		name = defaultUser
	}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	switch {
	case err != nil && name == defaultUser:
		note := fmt.Sprintf("workers run as uid %d: there is no user %s", nobody, defaultUser)
		return &syscall.Credential{Uid: nobody, Gid: nobody}, note, nil
	case err != nil:
		return nil, "", fmt.Errorf("workers.user: there is no user %s", name)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("workers.user %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("workers.user %s: %w", name, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, "", nil
}

// begin starts a worker's process as that user. Where root may not change
// users, as in some containers, it stays root unless a user was asked for.
func (f *Fleet) begin(c *crew, index int, early, control, access *os.File, as *syscall.Credential) (*exec.Cmd, error) {
	cmd := command(c, index, early, control, access, as)
	err := startRestricted(cmd)
	refused := as != nil && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL))
	if name := f.userName(); !refused || name != "" && name != defaultUser {
		return cmd, err
	}
	cmd = command(c, index, early, control, access, nil)
	if startRestricted(cmd) != nil {
		return nil, err
	}
	f.note("user", "workers run as root: lbd may not become another user here")
	return cmd, nil
}

// spawn starts the process of one place in a crew. It is not connected yet.
func (f *Fleet) spawn(c *crew, index int, as *syscall.Credential) (*member, error) {
	path := socketPath(f.options.RunDir, c.number, index)
	control, err := listenControl(path)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	early, err := earlyLog()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	access := f.access
	f.mu.Unlock()

	cmd, err := f.begin(c, index, early, control, access, as)
	if err != nil {
		early.Close()
		os.Remove(path)
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	m := &member{
		crew: c, index: index, pid: cmd.Process.Pid, cmd: cmd, socket: path,
		started: time.Now(), exited: make(chan struct{}), buried: make(chan struct{}), early: early, phase: starting,
	}
	go f.runWatch(m) // ends with the process it watches, not with us
	return m, nil
}

// command is what starts a worker. The program is executed through its
// descriptor: the crew keeps running the same one when the file is replaced,
// and the worker's user need not reach its directory.
func command(c *crew, index int, early, control, access *os.File, as *syscall.Credential) *exec.Cmd {
	args := []string{
		c.name, "worker",
		"--crew", strconv.Itoa(c.number), "--index", strconv.Itoa(index),
		"--processes", strconv.Itoa(c.processes), "--threads", strconv.Itoa(c.threads),
		"--owner", strconv.Itoa(os.Geteuid()),
	}
	files := []*os.File{control, c.binary}
	if access != nil {
		args = append(args, "--access")
		files = append(files, access)
	}
	return &exec.Cmd{
		Path: "/proc/self/fd/" + strconv.Itoa(fdBinary), Args: args, Env: environment(), Dir: "/",
		Stdout: early, Stderr: early, ExtraFiles: files,
		// A session of its own: Ctrl-C in a terminal is the supervisor's affair.
		// No parent-death signal: workers outlive their supervisor.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: as},
	}
}

// environment is ours without what systemd says to the supervisor alone.
func environment() []string {
	var out []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID":
			continue
		}
		out = append(out, v)
	}
	return out
}

// startRestricted starts the process from a thread that has given up its
// ambient capabilities and any way to gain new ones; the thread ends with its
// goroutine because it is never unlocked.
func startRestricted(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			// Old kernels have no ambient capabilities to clear.
			_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// controlSockets are those of all workers in a run directory.
const controlSockets = "worker-*-*.sock"

// socketPath is a path that no control socket has: the worker that was at this
// place before may still have its own, and is lost to later supervisors without.
func socketPath(dir string, crew, index int) string {
	path := filepath.Join(dir, fmt.Sprintf("worker-%d-%d.sock", crew, index))
	for n := 1; ; n++ {
		if _, err := os.Lstat(path); err != nil {
			return path
		}
		path = filepath.Join(dir, fmt.Sprintf("worker-%d-%d-%d.sock", crew, index, n))
	}
}

// listenControl makes the socket that a worker serves and that later
// supervisors find. The worker gets it open: it reaches no path itself.
func listenControl(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, unix.EINVAL) && len(path) > 107 {
		err = fmt.Errorf("%s is longer than the 107 characters a socket's path may have; set node.run_dir to a shorter one", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for a worker's control: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

// earlySize is how much of a starting worker's stderr is kept.
const earlySize = 64 << 10

// earlyLog is the stderr of a worker that is not ready yet: memory of a fixed
// size that we read when it fails. A pipe would kill the worker the day its
// reader is gone.
func earlyLog() (*os.File, error) {
	fd, err := unix.MemfdCreate("lbd-worker-start", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a worker's first log: %w", err)
	}
	f := os.NewFile(uintptr(fd), "lbd-worker-start")
	if err := f.Truncate(earlySize); err != nil {
		f.Close()
		return nil, err
	}
	seals := unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// said is what a worker wrote before it was ready.
func said(early *os.File) string {
	text := make([]byte, earlySize)
	n, _ := early.ReadAt(text, 0)
	return strings.TrimSpace(string(bytes.TrimRight(text[:n], "\x00")))
}

// lastLines shortens a text to what fits an error.
func lastLines(text string) string {
	const most = 600
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-6):]
	text = strings.Join(lines, "; ")
	return text[max(0, len(text)-most):]
}

// raiseFiles lifts the limit of open files as far as we may; workers inherit it.
func raiseFiles() {
	const want = 1 << 20
	have := openFiles()
	if have.Cur >= want {
		return
	}
	// Through package syscall: it would give its children the old limit back.
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: want, Max: max(want, have.Max)}) != nil {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: have.Max, Max: have.Max})
	}
}

func openFiles() syscall.Rlimit {
	var limit syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) // cannot fail
	return limit
}

// spareFiles is what a worker needs besides connections.
const spareFiles = 1024

// filesNote says when connections will run out of descriptors before they
// reach their limit: each may need a second one, to a backend.
func filesNote(connections int) string {
	have := openFiles().Cur
	if need := uint64(2*connections + spareFiles); have < need {
		return fmt.Sprintf("a worker may open %d files, limits.connections %d may need %d: raise the limit of open files (LimitNOFILE= in the unit, ulimit -n in a shell)",
			have, connections, need)
	}
	return ""
}
