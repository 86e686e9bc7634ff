// Package rig is what the suites of bench share: proxies that are started on
// free ports, and a client that speaks HTTP/2 frame by frame.
package rig

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Proxy is a program that can be started.
type Proxy struct {
	Name    string
	Command func(dir, config string) *exec.Cmd
	// Config has {port} and {h2} to serve at, {origin}, {dir}, and what the
	// caller of Start replaces.
	Config string
	Drain  syscall.Signal // makes it end when its clients have ended
}

// Running is a Proxy that runs.
type Running struct {
	Addr  string // HTTP/1
	H2    string // HTTP/2 in clear text, without an upgrade
	Pid   int
	Dir   string
	proxy *Proxy
	cmd   *exec.Cmd
}

// Start runs a proxy in front of origin. The pairs replace more in its Config.
func (p *Proxy) Start(origin string, pairs ...string) (*Running, error) {
	dir, err := os.MkdirTemp("", "rig-"+p.Name+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // workers may be somebody else
		return nil, err
	}
	r := &Running{Addr: FreeAddr(), H2: FreeAddr(), Dir: dir, proxy: p}
	if !strings.Contains(p.Config, "{h2}") {
		r.H2 = r.Addr
	}
	config := filepath.Join(dir, "config")
	text := strings.NewReplacer(append(pairs, "{port}", port(r.Addr), "{h2}", port(r.H2), "{origin}", origin, "{dir}", dir)...).Replace(p.Config)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	r.cmd = p.Command(dir, config)
	r.cmd.Stderr = os.Stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its workers end with it
	if err := r.cmd.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	r.Pid = r.cmd.Process.Pid
	if err := r.await(); err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

func (r *Running) await() error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", r.H2); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("%s does not answer at %s", r.proxy.Name, r.H2)
}

// Drain asks the proxy to leave when its clients are done.
func (r *Running) Drain() error {
	if r.proxy.Drain == 0 {
		return errors.ErrUnsupported
	}
	return r.cmd.Process.Signal(r.proxy.Drain)
}

// Stop ends the proxy and what it started.
func (r *Running) Stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(3*time.Second, func() { syscall.Kill(-r.Pid, syscall.SIGKILL) })
	r.cmd.Wait()
	kill.Stop()
	syscall.Kill(-r.Pid, syscall.SIGKILL)
	os.RemoveAll(r.Dir)
}

// Memory is the resident size of the proxy and its children, in bytes.
func (r *Running) Memory() (sum int64) {
	for _, pid := range Family(r.Pid) {
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		var size, resident int64
		fmt.Sscan(string(statm), &size, &resident)
		sum += resident * int64(os.Getpagesize())
	}
	return sum
}

// Family is a process with all that descend from it.
func Family(pid int) []int {
	out := []int{pid}
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range children {
		text, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				out = append(out, Family(child)...)
			}
		}
	}
	return out
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// FreeAddr is an address that was free a moment ago.
func FreeAddr() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer ln.Close()
	return ln.Addr().String()
}
