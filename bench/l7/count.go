package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// counter counts the system calls of processes: perf, of the package
// linux-perf, counts them in the kernel and holds nobody up.
type counter struct {
	cmd *exec.Cmd
	out string
}

// count begins; nil: it cannot be done here.
func (b *bench) count(ctx context.Context, root int) *counter {
	var pids []string
	for pid := range familyOf(root) {
		pids = append(pids, strconv.Itoa(pid))
	}
	c := &counter{out: filepath.Join(b.dir, "calls")}
	os.Remove(c.out)
	c.cmd = exec.CommandContext(ctx, "perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o", c.out, "-p", strings.Join(pids, ","))
	if c.cmd.Start() != nil {
		return nil
	}
	time.Sleep(200 * time.Millisecond) // until it has attached; it does not say
	return c
}

// stop returns how many there were; 0: nobody knows.
func (c *counter) stop() float64 {
	if c == nil {
		return 0
	}
	c.cmd.Process.Signal(syscall.SIGINT)
	c.cmd.Wait()
	text, _ := os.ReadFile(c.out)
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(line, ",")
		if n, err := strconv.ParseFloat(fields[0], 64); err == nil && strings.Contains(line, "sys_enter") {
			return n
		}
	}
	return 0
}
