package worker

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LockedError says that another lbd uses the run directory.
type LockedError struct {
	RunDir string
	PID    int // 0: unknown
}

func (e *LockedError) Error() string {
	who := "another lbd"
	if e.PID > 0 {
		who += " (pid " + strconv.Itoa(e.PID) + ")"
	}
	return who + " runs with run_dir " + e.RunDir + "; stop it, or give this one a node.run_dir of its own"
}

// Lock takes the run directory for this process. The lock ends with the
// process, however it ends; workers do not inherit it.
func Lock(dir string) (*os.File, error) {
	if err := own(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock run_dir: %w", err)
	}
	if err := flock(f, dir); err != nil {
		f.Close()
		return nil, err
	}
	// The number is for the other's message only; the lock is the flock.
	if err := f.Truncate(0); err == nil {
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// A supervisor that is killed while it starts a worker leaves a child that
// holds the lock until it executes the worker's program.
const (
	lockTries = 50
	lockTick  = 20 * time.Millisecond
)

func flock(f *os.File, dir string) error {
	for range lockTries {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if err != unix.EWOULDBLOCK {
			return fmt.Errorf("lock run_dir %s: %w", dir, err)
		}
		if pid := holder(f); pid == 0 || unix.Kill(pid, 0) != unix.ESRCH {
			break // it lives
		}
		time.Sleep(lockTick)
	}
	return &LockedError{dir, holder(f)}
}

// own makes the directory when it is missing. One that others may write to is
// refused: whoever does could hand us workers of his own.
func own(dir string) error {
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755 // the group lbd-admin passes through to the admin socket
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make run_dir: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("look at run_dir %s: %w", dir, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("run_dir %s belongs to uid %d with mode %04o; it must be ours (uid %d) and writable for nobody else: choose another node.run_dir",
			dir, st.Uid, st.Mode&0o7777, os.Geteuid())
	}
	return nil
}

// LockedBy is the pid that the run directory was last locked by; 0: unknown.
func LockedBy(dir string) int {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return 0
	}
	defer f.Close()
	return holder(f)
}

func holder(f *os.File) int {
	text := make([]byte, 32)
	n, err := f.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return 0
	}
	text = text[:n]
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}
