package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/discover"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
	"github.com/cirque-lb/lb/health"
	"github.com/cirque-lb/lb/l4"
	"github.com/cirque-lb/lb/l7"
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

// loadState reads the file and what data_dir keeps. When that fails because another
// lbd runs by the same file, the error says which; one that was killed may hold
// its locks for a moment longer.
func loadState(file string) (*node.State, error) {
	state, err := node.Load(file, l7.Check(filters))
	if err == nil {
		return state, nil
	}
	text, unread := os.ReadFile(file)
	c, refused := parse(file, text)
	if unread != nil || refused != nil {
		return nil, err
	}
	lock, taken := worker.Lock(c.Node.RunDir)
	if taken != nil {
		return nil, taken
	}
	lock.Close()
	return node.Load(file, l7.Check(filters))
}

// ownPath is where an upgrade finds the next program: the path that lbd was
// started by, whatever it points to by then. Who was executed in place of
// another is told.
func ownPath() (string, error) {
	running, err := os.Executable() // with symbolic links resolved
	if err != nil {
		return "", err
	}
	called, err := exec.LookPath(os.Args[0])
	if err != nil {
		return running, nil
	}
	a, errA := os.Stat(called)
	b, errB := os.Stat("/proc/self/exe")
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		return running, nil
	}
	return filepath.Abs(called)
}

func newLog(l lb.LogSettings) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // validated; "" is info
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// open makes all parts. Nothing serves yet, except adopted workers.
func (d *daemon) open() error {
	c := d.config
	keys, err := clusterKeys(c.Cluster)
	if err != nil {
		return err
	}
	workers, err := worker.OpenFleet(context.Background(), worker.Options{
		RunDir: c.Node.RunDir, Binary: d.binary, Version: thisVersion(), Parse: parse, Log: d.log, Tickets: ticketSecrets(keys),
	})
	if err != nil {
		return err
	}
	d.fleet = &fleet{Fleet: workers}
	d.audit = admin.OpenAudit(filepath.Join(c.Node.DataDir, "audit.log"))
	if err := d.listen(); err != nil {
		return err
	}
	// Part of its Report is what is missing; an error is for fastpath.required.
	var pathless error
	if d.path, pathless = d.openDatapath(); pathless != nil && c.Fastpath.Required {
		return coded{exitMissing, pathless}
	}
	note := func(e lb.Event) { d.node.Note(e) } // nobody calls it before the node is made
	d.monitor = health.New(health.Options{Changed: func(c health.Change) { note(c.Event()) }})
	d.recallHealth()
	d.found = discover.New(discover.Options{Note: note})
	if c.Cluster != nil {
		d.identity = d.boot()
		if d.cluster, err = openCluster(c, keys, d.identity, d.log, note); err != nil {
			return err
		}
	}
	d.node, err = node.New(d.parts(pathless))
	return err
}

// listen opens the admin API, or goes on with what a predecessor listened on:
// who asks meanwhile waits in the queue.
func (d *daemon) listen() (err error) {
	c := d.config.Admin
	if d.over != nil {
		d.socket = inheritListener(d.over.Admin, d.over.Socket, c.Socket)
		d.http = inheritListener(d.over.HTTP, d.over.Address, c.HTTP)
	}
	if d.socket == nil {
		d.socket = d.stored.take("admin", c.Socket)
	}
	if d.http == nil {
		d.http = d.stored.take("http", c.HTTP)
	}
	d.stored.drop()
	if d.socket == nil {
		if d.socket, err = admin.Listen(c.Socket); err != nil {
			return err
		}
	}
	if c.ReadOnlySocket != "" {
		if d.readOnly, err = admin.ListenReadOnly(c.ReadOnlySocket); err != nil {
			return err
		}
	}
	if d.http == nil && c.HTTP != "" {
		d.http, err = listenHTTP(c.HTTP)
	}
	return err
}

// keys are the cluster's; nil without one.
func (d *daemon) keys() *keyring {
	if d.cluster == nil {
		return nil
	}
	return &keyring{file: d.config.Cluster.KeyFile, cluster: d.cluster, tickets: d.fleet.SetTickets, note: d.node.Note}
}

// depart makes us drain and exit, as SIGTERM does.
func (d *daemon) depart() {
	select {
	case d.signals <- unix.SIGTERM:
	default: // as many signals wait as there is room for
	}
}

func (d *daemon) openDatapath() (*datapath, error) {
	o := pathOptions(d.config)
	o.Log = d.log
	p, err := l4.Open(o)
	if err != nil {
		return nil, err
	}
	return &datapath{Datapath: p}, nil
}

// parts hands the node what there is; an interface must not hold a nil pointer.
func (d *daemon) parts(pathless error) node.Options {
	o := node.Options{
		State: d.state, Fleet: d.fleet, Monitor: monitor{d.monitor, d.fleet, d.log},
		Discovery: finder{d.found}, DatapathError: pathless, Version: thisVersion(), Log: d.log,
		Events: filepath.Join(d.config.Node.RunDir, "events"), Now: wallClock,
	}
	if d.path != nil {
		o.Datapath = d.path
	}
	if d.cluster != nil {
		o.Cluster = gossip{d.cluster}
	}
	return o
}

// wallClock is what time it is for people; tests have it wrong.
var wallClock = time.Now

// boot is the datapath's boot id. Without one every start is a new life, but
// for that of a successor.
func (d *daemon) boot() lb.BootID {
	if d.path != nil {
		return d.path.Boot()
	}
	if d.over != nil && d.over.Boot != (lb.BootID{}) {
		return d.over.Boot
	}
	var id lb.BootID
	_, _ = rand.Read(id[:]) // never fails
	return id
}

func listenHTTP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if a, parsed := netip.ParseAddrPort(address); parsed == nil {
		err = worker.ExplainBind(a, err)
	}
	return nil, fmt.Errorf("admin.http: %w", err)
}

// serve runs until a signal or the failure of the first configuration ends it,
// or until an upgrade wants another program, next, in our place.
func (d *daemon) serve() (next string, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	d.run("monitor", func() error { return d.monitor.Run(ctx) })
	d.run("health file", func() error { return d.runRemember(ctx) })
	c, o := control{d.node, d.upgrade, d.depart, d.keys()}, admin.Options{Log: d.log, Audit: d.audit}
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
	d.unstore()
	if next != "" {
		if err := d.keepListeners(); err != nil {
			d.log.Warn("the admin API is not reachable during the upgrade", "err", err)
		}
	}
	if signalled {
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
	notify("READY=1")
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

// leave drains and ends the workers. A second signal cuts it short. The node
// is dismissed before the sockets go, so that nothing is steered to them again.
func (d *daemon) leave(dismiss func()) error {
	notify("STOPPING=1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.work.Go(func() {
		for {
			select {
			case s := <-d.signals:
				if s == unix.SIGTERM || s == unix.SIGINT {
					cancel()
				}
			case <-ctx.Done():
				return
			}
		}
	})
	d.withdraw(ctx)
	dismiss()
	var errs []error
	if d.path != nil {
		errs = append(errs, d.path.release())
	}
	return errors.Join(append(errs, d.fleet.Shutdown(ctx))...)
}

// leaveTime bounds the good-bye to peers.
const leaveTime = 2 * time.Second

// withdraw makes new connections go elsewhere before the listeners close, and
// waits for those that are here. Where there is no elsewhere, the node is told
// that it leaves, and closing the listeners is the way.
func (d *daemon) withdraw(ctx context.Context) {
	select {
	case <-d.node.Serving():
	default:
		return // there was nothing to withdraw yet
	}
	if d.cluster == nil {
		bounded, cancel := context.WithCancel(ctx)
		cancel()
		_ = d.node.Leave(bounded)
		return
	}
	if err := d.node.Leave(ctx); err != nil {
		d.log.Warn("leave", "err", err)
	}
	bounded, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if err := d.cluster.Leave(bounded); err != nil {
		d.log.Warn("say good-bye", "err", err)
	}
}

// close lets go of everything; workers that were not shut down serve on.
func (d *daemon) close() {
	if d.found != nil {
		d.found.Close()
	}
	if d.cluster != nil {
		_ = d.cluster.Close()
	}
	if d.path != nil {
		_ = d.path.Close()
	}
	for _, l := range []net.Listener{d.socket, d.readOnly, d.http} {
		if l != nil {
			_ = l.Close()
		}
	}
	if d.readOnly != nil {
		_ = os.Remove(d.config.Admin.ReadOnlySocket)
	}
	if d.socket != nil && d.kept.admin == 0 {
		_ = os.Remove(d.config.Admin.Socket)
	}
	if d.audit != nil {
		_ = d.audit.Close()
	}
	if d.fleet != nil {
		_ = d.fleet.Close()
	}
}
