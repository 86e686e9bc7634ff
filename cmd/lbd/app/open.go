package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/lbd/internal/discover"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
	"github.com/cirque-lb/lb/health"
	"github.com/cirque-lb/lb/l4"
	"github.com/cirque-lb/lb/l7"
)

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
	if d.path != nil {
		d.fleet.SetPulse(d.path.Pulse())
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

func (d *daemon) openDatapath() (*datapath, error) {
	o := pathOptions(d.config)
	o.Log, o.Note = d.log, func(e lb.Event) { d.node.Note(e) }
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
