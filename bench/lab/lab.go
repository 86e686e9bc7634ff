package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// lab is a world with everything running in it.
type lab struct {
	*world
	smoke bool
	echo  bool // the nodes proxy TCP, too
	lbctl string
	lbd   string // the binary that runs, in a place that workers can read
	load  *loadClient
}

// How long things may take to become as wanted.
const (
	startTime  = 60 * time.Second
	settleTime = 30 * time.Second
	calmTime   = 2 * time.Minute // of the consistency table, on whatever machine
)

// open starts backends, nodes and the load's process, and waits until the nodes
// agree.
func open(ctx context.Context, w *world, f flags) (*lab, error) {
	l := &lab{world: w, smoke: f.smoke, echo: f.consistency > 0, lbd: w.path("lbd")}
	lbd, err := absolute(f.lbd)
	if err != nil {
		return nil, err
	}
	if l.lbctl, err = absolute(f.lbctl); err != nil {
		return nil, err
	}
	if err := copyFile(l.lbd, lbd); err != nil {
		return nil, fmt.Errorf("copy %s: %w", lbd, err)
	}
	if err := l.startOrigins(); err != nil {
		return nil, err
	}
	if err := l.startNodes(ctx); err != nil {
		return nil, err
	}
	return l, l.startLoad(ctx)
}

func (l *lab) startOrigins() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, m := range l.role("backend") {
		if err := l.start(m, m.Name, self, "origin", m.Name, fmt.Sprintf("%s:%d", m.address(), originPort)); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) startNodes(ctx context.Context) error {
	var key [32]byte
	rand.Read(key[:])
	if err := os.WriteFile(l.path("cluster.key"), []byte(hex.EncodeToString(key[:])+"\n"), 0o600); err != nil {
		return err
	}
	for _, m := range l.role("node") {
		if err := os.MkdirAll(l.path(m.Name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(l.path(m.Name, "lbd.yaml"), l.config(m), 0o644); err != nil {
			return err
		}
		if err := l.startNode(m); err != nil {
			return err
		}
	}
	return l.until(ctx, startTime, "the nodes agree", l.agreed)
}

func (l *lab) startNode(m machine) error {
	return l.start(m, m.Name, l.lbd, "run", "-c", l.path(m.Name, "lbd.yaml"))
}

func (l *lab) startLoad(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	socket := l.path("load.sock")
	if err := l.start(l.byName("client"), "load", self, "load", socket, l.VIP.String()); err != nil {
		return err
	}
	l.load = newLoadClient(socket)
	return l.until(ctx, settleTime, "the load takes orders", func() error { return l.load.do("/flows", order{}, nil) })
}

// agreed is nil when every node sees every node listed, ready and of its own view
// of the epochs, with every worker ready and every backend up. Their objects are
// never the same: each file puts its node's name into answers.
func (l *lab) agreed() error {
	nodes := l.role("node")
	for _, m := range nodes {
		s, err := l.status(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		in := 0
		self := slices.IndexFunc(s.Nodes, func(n nodeStatus) bool { return n.Self })
		if self < 0 {
			return fmt.Errorf("%s does not see itself", m.Name)
		}
		for _, n := range s.Nodes {
			if n.Ready && n.Listed && n.Weight > 0 && n.View == s.Nodes[self].View {
				in++
			}
		}
		switch {
		case in != len(nodes):
			return fmt.Errorf("%s sees %d of %d nodes ready, listed and of one view", m.Name, in, len(nodes))
		case !s.allReady(l.processes()):
			return fmt.Errorf("%s: not all workers are ready: %+v", m.Name, s.Workers)
		case slices.ContainsFunc(s.Pools, func(p poolStatus) bool { return p.Usable < p.Backends }):
			return fmt.Errorf("%s: not all backends are usable: %+v", m.Name, s.Pools)
		}
	}
	return nil
}

// until waits until check is nil, for a bounded time.
func (l *lab) until(ctx context.Context, limit time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		pause(ctx, 100*time.Millisecond)
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("not within %v: %s: %w", limit, what, err), l.dead())
		}
	}
}

// dead tells of programs that ended by themselves.
func (l *lab) dead() (err error) {
	for _, name := range sortedKeys(l.running) {
		select {
		case <-l.running[name].ended:
			err = errors.Join(err, fmt.Errorf("%s ended (%s):\n%s", name, l.running[name].ProcessState, l.logTail(name)))
		default:
		}
	}
	return err
}

// processes and threads of each node's workers.
func (l *lab) processes() int { return 2 }

func (l *lab) threads() int {
	if l.smoke {
		return 1
	}
	return 2
}

// invite says what can be tried in a lab that is kept.
func (l *lab) invite() {
	m := l.role("node")[0]
	fmt.Printf(`
The lab stays up until Ctrl-C. From another shell, as root:
  nsenter --net=%[1]s curl -i http://%[2]s/whoami
  %[3]s --addr %[4]s status
  %[3]s --addr %[4]s explain 'tcp %[5]s:40000 > %[2]s'
  ls %[6]s   # configurations and logs
`, filepath.Join(netnsDir, l.namespace(l.byName("client"))), l.VIP, l.lbctl, l.socket(m), l.byName("client").address(), l.dir)
}
