package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/l4/l4test"
)

// world is a topology made of namespaces, with the processes in them.
//
// Invariant: whatever it makes carries its prefix or lives in its directory or
// in its namespaces, so that close, or a later run, can remove all of it.
type world struct {
	*topology
	prefix string
	dir    string // configurations, logs, sockets
	pins   string // on bpffs

	running map[string]*process // by name
}

type process struct {
	*exec.Cmd
	ended chan struct{} // closed when it was reaped
}

func newWorld(t *topology, prefix string) (*world, error) {
	dir, err := os.MkdirTemp("", prefix+"-")
	if err != nil {
		return nil, fmt.Errorf("make directory of the lab: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // workers drop privileges
		return nil, fmt.Errorf("open directory of the lab to workers: %w", err)
	}
	return &world{topology: t, prefix: prefix, dir: dir, pins: "/sys/fs/bpf/" + prefix, running: map[string]*process{}}, nil
}

func (w *world) namespace(m machine) string { return w.prefix + "-" + m.Name }

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// build makes namespaces, links, routes and what the kernel must be told.
func (w *world) build() error {
	for _, m := range w.Machines {
		if _, err := os.Stat(filepath.Join(netnsDir, w.namespace(m))); err == nil {
			return fmt.Errorf("namespace %s exists: another lab runs, or one was cut short (remove it by `go run ./bench/lab -down`)", w.namespace(m))
		}
	}
	steps := []func() error{w.mountBPF, w.makeNamespaces, w.makeLinks, w.setRouter, w.setMachines, func() error { return w.announce(0) }}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mountBPF makes the place for pins; a lab without bpffs still runs, and lbd
// says what it lacks.
func (w *world) mountBPF() error {
	const bpffs = "/sys/fs/bpf"
	var fs unix.Statfs_t
	if unix.Statfs(bpffs, &fs) == nil && fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700"); err != nil {
		fmt.Printf("no bpffs, so no fast path: %v\n", err)
	}
	return nil
}

func (w *world) makeNamespaces() error {
	for _, m := range w.Machines {
		if err := ip("netns add %s", w.namespace(m)); err != nil {
			return err
		}
		if err := ip("-n %s link set lo up", w.namespace(m)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) makeLinks() error {
	router := w.namespace(w.router())
	for _, m := range w.Machines {
		if m.Role == "router" {
			continue
		}
		mtu := 1500
		if m.Role == "node" {
			mtu = w.MTU
		}
		ns, up, down := w.namespace(m), m.uplink(), m.downlink()
		for _, line := range []string{
			fmt.Sprintf("link add %s netns %s mtu %d type veth peer name %s netns %s mtu %d", up, ns, mtu, down, router, mtu),
			fmt.Sprintf("-n %s address add %s dev %s", ns, m.cidr(m.address()), up),
			fmt.Sprintf("-n %s address add %s dev %s", router, m.cidr(m.gateway()), down),
			fmt.Sprintf("-n %s link set %s up", ns, up),
			fmt.Sprintf("-n %s link set %s up", router, down),
			fmt.Sprintf("-n %s route add default via %s", ns, m.gateway()),
		} {
			if err := ip("%s", line); err != nil {
				return err
			}
		}
	}
	return nil
}

// setRouter has the router forward, and hash by what it reads in the packet:
// policy 1 would believe the sender's skb->hash, which survives a veth and
// changes with every retransmission time-out.
func (w *world) setRouter() error {
	return inNamespace(w.namespace(w.router()), func() error {
		const fiveTuple = "0x37" // source, destination, protocol, both ports
		return errors.Join(
			sysctl("net.ipv4.ip_forward", "1"),
			sysctl("net.ipv4.conf.all.rp_filter", "0"),
			sysctl("net.ipv4.conf.default.rp_filter", "0"),
			sysctl("net.ipv4.fib_multipath_hash_policy", "3"),
			sysctl("net.ipv4.fib_multipath_hash_fields", fiveTuple),
			w.setFeeders(),
		)
	})
}

// setFeeders prepares the router's ends of the nodes' links: native XDP on the
// other end loses partial checksums, and frames it sends back arrive only where
// GRO is on.
func (w *world) setFeeders() error {
	for _, m := range w.role("node") {
		if err := errors.Join(l4test.Ethtool(m.downlink(), l4test.SetTxChecksum, 0), l4test.Ethtool(m.downlink(), l4test.SetGRO, 1)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) setMachines() error {
	for _, m := range w.Machines {
		err := inNamespace(w.namespace(m), func() error {
			switch m.Role {
			case "client": // tens of thousands of connections from one address
				return errors.Join(sysctl("net.ipv4.ip_local_port_range", "1024 65535"), sysctl("net.ipv4.ip_local_reserved_ports", "2000-2999"), sysctl("net.ipv4.tcp_tw_reuse", "1"))
			case "node":
				return errors.Join(l4test.Ethtool(m.uplink(), l4test.SetGRO, 1), sysctl("net.core.somaxconn", "4096"), sysctl("net.ipv4.conf.all.rp_filter", "0"))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// announce routes the VIP to all nodes, or all but those named, at equal cost.
// A shift moves every flow to another next hop, as a real router's reconvergence
// may.
func (w *world) announce(shift int, without ...string) error {
	var hops strings.Builder
	nodes := slices.DeleteFunc(w.role("node"), func(m machine) bool { return slices.Contains(without, m.Name) })
	for i := range nodes {
		fmt.Fprintf(&hops, " nexthop via %s", nodes[(i+shift)%len(nodes)].address())
	}
	return ip("-n %s route replace %s/32%s", w.namespace(w.router()), w.VIP.Addr(), hops.String())
}

// start runs a program on a machine; its output goes to a log.
func (w *world) start(m machine, name string, argv ...string) error {
	log, err := os.OpenFile(w.path(name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours
	if err := inNamespace(w.namespace(m), cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd, make(chan struct{})}
	go func() { p.Wait(); close(p.ended) }()
	w.running[name] = p
	return nil
}

// kill ends a process that start began, at once, and waits until it is reaped.
func (w *world) kill(name string) error {
	p := w.running[name]
	if p == nil {
		return fmt.Errorf("kill %s: not running", name)
	}
	delete(w.running, name)
	if err := p.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	<-p.ended
	return nil
}

// logTail is the end of a program's log, for an error message.
func (w *world) logTail(name string) string {
	text, err := os.ReadFile(w.path(name + ".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// close removes everything: processes first, those that lbd left behind too.
func (w *world) close() error {
	err := demolish(w.prefix, w.pins)
	for _, p := range w.running {
		select {
		case <-p.ended:
		case <-time.After(5 * time.Second): // it does not die of SIGKILL
		}
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

// demolish removes the namespaces whose names begin with the prefix, what runs
// in them, and the pins.
func demolish(prefix, pins string) error {
	var errs []error
	names, _ := filepath.Glob(filepath.Join(netnsDir, prefix+"-*"))
	for _, path := range names {
		name := filepath.Base(path)
		for range 50 { // a supervisor may start a worker while we look
			pids := insiders(name)
			if len(pids) == 0 {
				break
			}
			for _, pid := range pids {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
					errs = append(errs, fmt.Errorf("kill %d in %s: %w", pid, name, err))
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		errs = append(errs, ip("netns delete %s", name))
	}
	return errors.Join(append(errs, os.RemoveAll(pins))...)
}

// copyFile puts a program where workers without privileges can run it.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return cmp.Or(err, out.Close())
}

// byName finds a machine.
func (t *topology) byName(name string) machine {
	i := slices.IndexFunc(t.Machines, func(m machine) bool { return m.Name == name })
	return t.Machines[i]
}
