package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The proxy under test has one core for itself; load and origin share another.
const proxyCore, loadCore, anyCore = 0, 1, -1

type bench struct {
	dir     string
	proxies map[string]*proxy
	started []*exec.Cmd
	asked   int // the origin, for its status
}

// proxy is one of the compared programs, running.
type proxy struct {
	name  string
	ports map[string]int // what it serves
	pid   int            // the root of its process tree
}

func (p *proxy) url(on string) string {
	scheme := "http"
	if on == onTLS || on == onRSA {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, p.ports[on])
}

// served gives a proxy free ports.
func served(name string, on ...string) (*proxy, []int) {
	p, ports := &proxy{name: name, ports: map[string]int{}}, freePorts(len(on))
	for i, kind := range on {
		p.ports[kind] = ports[i]
	}
	return p, ports
}

// setUp starts the origin and every proxy that is installed. The caller closes
// the bench, also after an error.
func setUp(ctx context.Context, lbd string) (*bench, error) {
	return setUpWith(ctx, lbd, (*bench).startRelay, (*bench).startNginx, (*bench).startHAProxy, (*bench).startLogging)
}

// setUpOnly starts the origin and lbd.
func setUpOnly(ctx context.Context, lbd string) (*bench, error) { return setUpWith(ctx, lbd) }

func setUpWith(ctx context.Context, lbd string, others ...func(*bench, context.Context, string) (*proxy, error)) (*bench, error) {
	dir, err := os.MkdirTemp("", "lbd-bench-")
	if err != nil {
		return &bench{}, err
	}
	b := &bench{dir: dir, proxies: map[string]*proxy{}}
	if os.Getuid() == 0 { // workers and peers drop privileges; let them in
		os.Chmod(dir, 0o755)
	}
	if err := b.certificates(); err != nil {
		return b, err
	}
	origin, err := b.startOrigin()
	if err != nil {
		return b, fmt.Errorf("origin (nginx, of the package nginx-light): %w", err)
	}
	b.proxies[origin.name] = origin
	for _, start := range append(others, (*bench).startLBD) {
		p, err := start(b, ctx, lbd)
		if errors.Is(err, exec.ErrNotFound) {
			log.Printf("skipped: %v", err)
			continue
		}
		if err != nil {
			return b, fmt.Errorf("%s: %w", p.name, err)
		}
		b.proxies[p.name] = p
	}
	return b, nil
}

func (b *bench) close() {
	for _, c := range b.started {
		c.Process.Signal(syscall.SIGTERM)
	}
	for _, c := range b.started {
		timer := time.AfterFunc(5*time.Second, func() { c.Process.Kill() })
		c.Wait()
		timer.Stop()
	}
	if b.dir != "" {
		os.RemoveAll(b.dir)
	}
}

// start runs a program on a core, or on any, until close, and waits for its
// ports.
func (b *bench) start(core int, ports []int, name string, args ...string) (int, error) {
	path, err := lookPath(name)
	if err != nil {
		return 0, err
	}
	c := exec.Command(path, args...)
	if core >= 0 {
		c = exec.Command("taskset", append([]string{"-c", strconv.Itoa(core), path}, args...)...)
	}
	c.Dir = b.dir
	out, err := os.Create(filepath.Join(b.dir, filepath.Base(name)+"."+strconv.Itoa(len(b.started))+".log"))
	if err != nil {
		return 0, err
	}
	defer out.Close()
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		return 0, err
	}
	b.started = append(b.started, c)
	for _, port := range ports {
		if err := waitFor(port); err != nil {
			said, _ := os.ReadFile(out.Name())
			return 0, fmt.Errorf("%w; it said:\n%s", err, said)
		}
	}
	return c.Process.Pid, nil
}

// lookPath finds a program also where Debian keeps daemons.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	return exec.LookPath("/usr/sbin/" + name)
}

func waitFor(port int) error {
	var err error
	for range 200 {
		var c net.Conn
		if c, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return c.Close()
		}
		time.Sleep(25 * time.Millisecond)
	}
	return fmt.Errorf("nothing listens after 5 s: %w", err)
}

func freePorts(n int) []int {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (b *bench) file(name, content string) string {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		log.Fatal(err)
	}
	return path
}

// usage is CPU time spent so far.
type usage struct{ total, user time.Duration }

// cpuOf sums the CPU time of a process and of all that descend from it. The
// kernel scales user and system time to the exact run time of the scheduler.
func cpuOf(root int) (sum usage) {
	for _, u := range familyOf(root) {
		sum.total += u.total
		sum.user += u.user
	}
	return sum
}

// familyOf is a process and all that descend from it.
func familyOf(root int) map[int]usage {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	parents, times := map[int]int{}, map[int]usage{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// After the last ")": state ppid ... utime is the 12th, stime the 13th.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parents[pid], _ = strconv.Atoi(f[1])
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		times[pid] = usage{time.Duration(user+system) * tick, time.Duration(user) * tick}
	}
	family := map[int]usage{}
	for pid := range times {
		for p := pid; p > 1; p = parents[p] {
			if p == root {
				family[pid] = times[pid]
				break
			}
		}
	}
	return family
}
