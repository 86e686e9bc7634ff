// Command lab builds a small data centre out of network namespaces (a client, a
// router that spreads flows by ECMP, nodes with lbd, backends), puts a steady
// load through the VIP and gives a tour: it steers, kills, drains, restarts,
// reroutes and upgrades, and says after each step what that cost.
//
// It needs root and iproute2. Everything it makes is removed when it ends; -keep
// waits for Ctrl-C first. Start at tour.run; topology.yaml says who is there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

type flags struct {
	keep, smoke, down bool
	lbd, lbctl        string
	prefix, steps     string

	consistency, rounds int
	rows, other, logs   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return mode(ctx, args[0], args[1:])
	}
	var f flags
	set := flag.NewFlagSet("lab", flag.ExitOnError)
	set.BoolVar(&f.keep, "keep", false, "keep the lab after the tour until Ctrl-C")
	set.BoolVar(&f.smoke, "smoke", false, "a shorter tour, for CI")
	set.BoolVar(&f.down, "down", false, "remove what a lab that was cut short left behind")
	set.StringVar(&f.lbd, "lbd", "bin/lbd", "the daemon")
	set.StringVar(&f.lbctl, "lbctl", "bin/lbctl", "its command line")
	set.StringVar(&f.steps, "steps", "abcdefg", "what to visit, in this order; a step may come more than once")
	set.StringVar(&f.prefix, "prefix", "cirque-lab", "begins the name of every namespace, directory and pin")
	set.IntVar(&f.consistency, "consistency", 0, "instead of the tour: so many long-lived connections, and what each change costs them")
	set.IntVar(&f.rounds, "rounds", 1, "of the consistency table")
	set.StringVar(&f.rows, "rows", "", "of the consistency table whose names have this, or this, in them")
	set.StringVar(&f.other, "other", "bin/lbd-other", "a daemon whose maps are another layout, for the consistency table")
	set.StringVar(&f.logs, "logs", "", "keep the logs in this directory")
	set.Parse(args)
	if os.Geteuid() != 0 {
		return errors.New("namespaces and XDP need root: sudo make lab (without root: make run)")
	}
	if strings.Trim(f.steps, letters()) != "" {
		return fmt.Errorf("-steps %s: there are the steps %s", f.steps, letters())
	}
	t, err := parseTopology(topologyText)
	if err != nil {
		return err
	}
	if f.down {
		left, _ := filepath.Glob(filepath.Join(os.TempDir(), f.prefix+"-*"))
		err := demolish(f.prefix, "/sys/fs/bpf/"+f.prefix)
		for _, dir := range left {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return err
	}
	return visit(ctx, f, t)
}

// mode is what the program does inside the namespaces.
func mode(ctx context.Context, name string, args []string) error {
	switch {
	case name == "origin" && len(args) == 2: // NAME ADDRESS
		return serveOrigin(ctx, args[0], args[1])
	case name == "load" && len(args) == 2: // SOCKET TARGET
		target, err := netip.ParseAddrPort(args[1])
		if err != nil {
			return err
		}
		return serveLoad(ctx, args[0], target)
	case name == "vagrantfile" && len(args) == 0:
		t, err := parseTopology(topologyText)
		if err != nil {
			return err
		}
		return writeVagrantfile(os.Stdout, t)
	case name == "nodeconfig" && len(args) == 2: // NAME INTERFACE
		t, err := parseTopology(topologyText)
		if err != nil {
			return err
		}
		for _, m := range t.role("node") {
			if m.Name == args[0] {
				_, err := os.Stdout.Write(t.nodeConfig(m, installed(m, args[1])))
				return err
			}
		}
		return fmt.Errorf("the topology has no node %s", args[0])
	}
	return fmt.Errorf("unknown mode %q; there are origin NAME ADDRESS, load SOCKET TARGET, vagrantfile, nodeconfig NAME INTERFACE", name)
}

// visit builds the lab, gives the tour and clears up, whatever happens.
func visit(ctx context.Context, f flags, t *topology) (err error) {
	w, err := newWorld(t, f.prefix)
	if err != nil {
		return err
	}
	if err := w.build(); err != nil {
		return errors.Join(err, w.close())
	}
	defer func() { err = errors.Join(err, w.close()) }()
	l, err := open(ctx, w, f)
	if err != nil {
		return err
	}
	if f.logs != "" {
		defer func() { err = errors.Join(err, l.saveLogs(f.logs)) }()
	}
	failed := l.show(ctx, f)
	if f.keep && ctx.Err() == nil {
		l.invite()
		<-ctx.Done()
	}
	return failed
}

func (l *lab) show(ctx context.Context, f flags) error {
	if f.consistency > 0 {
		return l.consistency(ctx, f)
	}
	return l.tour(ctx, f.steps)
}

// saveLogs copies what the programs said to where close does not remove it.
func (l *lab) saveLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	logs, _ := filepath.Glob(l.path("*.log"))
	var errs []error
	for _, log := range logs {
		errs = append(errs, copyFile(filepath.Join(dir, filepath.Base(log)), log))
	}
	return errors.Join(errs...)
}

// absolute finds a program before we change to where others run it.
func absolute(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w (run make build first)", err)
	}
	return path, nil
}
