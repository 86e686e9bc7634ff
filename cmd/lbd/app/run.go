package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/discover"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/health"
)

func newRun() *cobra.Command {
	c := &cobra.Command{
		Use: "run", Short: "Run the load balancer", Args: usage(cobra.NoArgs),
		Long: `Run the load balancer in the foreground.

Workers that an earlier lbd left running are adopted. Signals: HUP reloads the
file, TERM and INT drain and exit (a second one: now), USR1 reopens the logs,
USR2 replaces the workers, then lbd itself, by the program at lbd's path.`,
	}
	file := configFlag(c)
	c.RunE = func(*cobra.Command, []string) error { return run(*file) }
	return c
}

// daemon is everything that runs in the supervisor.
type daemon struct {
	config  *lb.Config
	file    string // as the command line says it
	binary  string // where an upgrade finds the next program
	log     *slog.Logger
	state   *node.State
	fleet   *fleet
	path    *datapath // nil: it could not be opened
	monitor *health.Monitor
	found   *discover.Set
	cluster *cluster.Cluster // nil: alone
	node    *node.Node
	audit   *admin.Audit
	socket  net.Listener // the admin API
	http    net.Listener // its metrics; nil: none

	readOnly net.Listener // what of it changes nothing; nil: none

	stored stored // what systemd kept for us

	identity  lb.BootID // as gossip knows us
	over      *handover // what our predecessor left; nil: an ordinary start
	successor chan string
	kept      struct{ admin, http int } // listeners for a successor

	stays bool // workers and admin listeners are for the supervisor that comes at once

	signals chan os.Signal
	work    sync.WaitGroup
}

func run(file string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, kept...)
	signal.Ignore(unix.SIGPIPE) // a log nobody reads any more is no reason to end
	over, err := inherited()
	if err != nil {
		return over.back(err)
	}
	if over != nil {
		for _, n := range over.Signals {
			select {
			case signals <- syscall.Signal(n):
			default: // as many as there is room for
			}
		}
	}
	return over.back(start(file, over, signals))
}

// start opens everything and serves. An error before anything was served is
// the old program's to mend, if there is one.
func start(file string, over *handover, signals chan os.Signal) error {
	binary, err := ownPath()
	if err != nil {
		return err
	}
	if over != nil {
		binary = over.Path
	}
	state, err := loadState(file)
	if err != nil {
		return err
	}
	defer state.Close()
	d := &daemon{
		config: state.Config(), file: file, binary: binary, state: state, log: newLog(state.Config().Log),
		over: over, successor: make(chan string, 1), signals: signals, stored: openStored(),
	}
	if err := d.open(); err != nil {
		d.close()
		return err
	}
	next, err := d.serve()
	if next == "" {
		return err
	}
	d.state.Close() // its lock is the successor's
	return d.handOver(next)
}

// serve runs until a signal or the failure of the first configuration ends it,
// or until an upgrade wants another program, next, in our place.
func (d *daemon) serve() (next string, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	d.run("monitor", func() error { return d.monitor.Run(ctx) })
	d.run("health file", func() error { return d.runRemember(ctx) })
	c, o := control{d.node, d.upgrade, d.depart, d.keys(), d.packets()}, admin.Options{Log: d.log, Audit: d.audit}
	d.run("admin socket", func() error { return admin.Serve(ctx, d.socket, c, o) })
	if d.readOnly != nil {
		d.run("admin.read_only_socket", func() error { return admin.ServeReadOnly(ctx, d.readOnly, c, o) })
	}
	if d.http != nil {
		d.run("admin.http", func() error { return admin.ServeHTTP(ctx, d.http, c) })
	}
	if d.cluster != nil {
		d.run("cluster", func() error { return d.cluster.Run(ctx) })
		d.run("health of the cluster", func() error { return d.runShare(ctx) })
	}
	owner, dismiss := context.WithCancel(ctx)
	defer dismiss()
	d.work.Go(func() { ended <- d.node.Run(owner) })
	d.work.Go(func() { d.ready(ctx) })
	if d.over != nil {
		d.work.Go(func() { d.watch(ctx.Done()) })
	}
	next, signalled, err := d.await(ctx, ended)
	if signalled {
		d.stays = d.makeWay(ctx)
	}
	if !d.stays {
		d.unstore()
	}
	if next != "" {
		if err := d.keepListeners(); err != nil {
			d.log.Warn("the admin API is not reachable during the upgrade", "err", err)
		}
	}
	if signalled && !d.stays {
		err = d.leave(func() { dismiss(); <-ended })
	}
	cancel()
	d.work.Wait()
	d.close()
	return next, err
}

// run starts a part that ends with its context; one that fails is no reason to
// stop serving.
func (d *daemon) run(what string, f func() error) {
	d.work.Go(func() {
		if err := f(); err != nil {
			d.log.Error(what+" ended", "err", err)
		}
	})
}

func (d *daemon) ready(ctx context.Context) {
	select {
	case <-d.node.Serving():
	case <-ctx.Done():
		return
	}
	for _, l := range d.config.Listeners {
		d.log.Info("listening", "listener", l.Name, "bind", l.Bind)
	}
	insist(ctx, "READY=1")
	d.store()
	d.runWatchdog(ctx)
}

// await carries out signals until one of them, an error or an upgrade is the
// end.
func (d *daemon) await(ctx context.Context, ended <-chan error) (next string, signalled bool, err error) {
	for {
		select {
		case err := <-ended:
			return "", false, err
		case next := <-d.successor:
			d.log.Info("the supervisor is replaced", "program", next)
			return next, false, nil
		case s := <-d.signals:
			if s == unix.SIGTERM || s == unix.SIGINT {
				d.log.Info("draining; once more to end now", "signal", s)
				return "", true, nil
			}
			d.work.Go(func() { d.obey(ctx, s) })
		}
	}
}

// obey carries out a signal that does not end us. The node lets one change in
// at a time.
func (d *daemon) obey(ctx context.Context, s os.Signal) {
	var err error
	switch s {
	case unix.SIGHUP:
		_, err = d.node.Reload(ctx, node.Asked{By: "SIGHUP"})
	case unix.SIGUSR1:
		err = d.fleet.ReopenLogs()
	case unix.SIGUSR2:
		err = d.upgrade(ctx, "", node.Asked{By: "SIGUSR2"})
	}
	var es lb.Errors
	switch {
	case err != nil && ctx.Err() != nil: // for the successor, if there is one
		select {
		case d.signals <- s:
		default:
		}
	case errors.As(err, &es): // its excerpts and carets want lines of their own
		fmt.Fprintln(os.Stderr, err)
	case err != nil:
		d.log.Error("signal", "signal", s, "err", err)
	}
}
