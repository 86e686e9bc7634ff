package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

// inNamespace runs f on a thread inside a network namespace. Only the network
// changes: mounts stay, so that pins on bpffs are seen, which `ip netns exec`
// would hide.
func inNamespace(name string, f func() error) error {
	done := make(chan error)
	go func() {
		// The thread is never unlocked: it ends with this goroutine, and
		// nothing else ever runs in the namespace by accident.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end, and /proc/PID tells its namespace
			// as the process's. While we hold it, another goroutine gets
			// another thread.
			done <- inNamespace(name, f)
			runtime.UnlockOSThread()
			return
		}
		fd, err := unix.Open(filepath.Join(netnsDir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("open namespace %s: %w", name, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// ip runs iproute2 with the words of line.
func ip(line string, a ...any) error { return command("ip", line, a...) }

func command(program, line string, a ...any) error {
	line = fmt.Sprintf(line, a...)
	if out, err := exec.Command(program, strings.Fields(line)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, line, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// sysctl sets a value in the namespace of the calling thread.
func sysctl(name, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

// insiders lists the processes whose network is the namespace.
func insiders(name string) (pids []int) {
	var want unix.Stat_t
	if unix.Stat(filepath.Join(netnsDir, name), &want) != nil {
		return nil
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		var got unix.Stat_t
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		if pid != os.Getpid() && unix.Stat(link, &got) == nil && got.Ino == want.Ino && got.Dev == want.Dev {
			pids = append(pids, pid)
		}
	}
	return pids
}
