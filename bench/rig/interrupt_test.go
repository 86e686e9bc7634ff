package rig

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestAnInterruptedSuiteEndsWhatItStarted runs this program again as a suite that
// has started two programs in groups of their own, one of which ignores SIGTERM.
func TestAnInterruptedSuiteEndsWhatItStarted(t *testing.T) {
	if os.Getenv("RIG_SUITE") != "" {
		suite()
		return
	}
	c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	c.Env = append(os.Environ(), "RIG_SUITE=1")
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	var gentle, deaf int
	said := bufio.NewReader(out)
	line, _ := said.ReadString('\n')
	if _, err := fmt.Sscan(line, &gentle, &deaf); err != nil {
		t.Fatalf("the suite said %q: %v", line, err)
	}
	c.Process.Signal(syscall.SIGINT)
	if line, _ := said.ReadString('\n'); line != "first\n" {
		t.Errorf("after SIGINT it said %q", line)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 128+int(syscall.SIGINT) {
		t.Errorf("it ended with %v", err)
	}
	for _, pid := range []int{gentle, deaf} {
		for end := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
			if text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); time.Now().After(end) {
				t.Fatalf("process %d goes on: %s", pid, text)
			}
		}
	}
}

func suite() {
	EndOnInterrupt(func() { fmt.Println("first") })
	var pids []any
	for _, script := range []string{"echo; exec sleep 60", "trap '' TERM; echo; while :; do sleep 1; done"} {
		c := exec.Command("sh", "-c", script)
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := c.StdoutPipe()
		if err != nil || c.Start() != nil {
			os.Exit(1)
		}
		out.Read(make([]byte, 1)) // it is set up
		go c.Wait()
		pids = append(pids, c.Process.Pid)
	}
	fmt.Println(pids...)
	time.Sleep(60 * time.Second)
}
