package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// held lists the clients' ports of the TCP connections that a process holds. It
// looks at the process's own sockets, not at the host's: a stopped worker must
// not wait while a busy host lists all it has.
func held(pid int) (map[uint16]bool, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(process)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil, err
	}
	out := map[uint16]bool{}
	for _, entry := range fds {
		n, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err == unix.EPERM {
			return nil, fmt.Errorf("look into worker %d: %w", pid, err)
		}
		if err != nil {
			continue // it was closed
		}
		peer, _ := unix.Getpeername(fd)
		unix.Close(fd)
		if a, is := peer.(*unix.SockaddrInet4); is {
			out[uint16(a.Port)] = true
		}
	}
	return out, nil
}

// kill ends a worker; what it holds at that moment is lost with it.
func (l *load) kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	awaitStop(pid)
	ports, err := held(pid)
	l.took(ports)
	if gone := syscall.Kill(pid, syscall.SIGKILL); gone != nil {
		return gone
	}
	return err
}

// stopTime bounds how long a process may take to stop.
const stopTime = 2 * time.Second

// awaitStop returns when no thread of a process runs any more. The signal wakes one
// of them, which stops the others once it has a processor: until then they accept
// connections.
func awaitStop(pid int) {
	for end := time.Now().Add(stopTime); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		if stopped(pid) {
			return
		}
	}
}

func stopped(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		_, rest, _ := bytes.Cut(text, []byte(") "))
		if len(rest) > 0 && rest[0] != 'T' {
			return false
		}
	}
	return true
}

// children lists the processes that a process started.
func children(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(word); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}
