package worker

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// Server is what a worker process runs: the proxy. The methods are those of
// l7.Proxy, whose documentation says what they promise.
type Server interface {
	// Prepare builds everything for a configuration; commit switches it in.
	Prepare(generation uint64, c *lb.Config, files map[string][]byte) (commit func(), err error)
	SetState(lb.State)
	SetTicketKeys([][32]byte) error
	Accept(thread int, listener string, fd int) error
	StopAccept(listener string, fd int)
	Run(context.Context) error
	Drain(deadline time.Time)
	Done() <-chan struct{}
	Beats() []time.Time
	Stats() lb.Stats
	Refused() []lb.Refusal // the last malformed requests
}

// Start is what a new worker process knows before it has a configuration.
type Start struct {
	Name    string // "crew.index"
	Threads int
	Access  *os.File // nil: no access log
	Flight  []byte   // memory that outlives the process
	Log     *slog.Logger
}

// Child is the worker process's side: its Main is the command "lbd worker".
type Child struct {
	Version string
	Parse   func(file string, document []byte) (*lb.Config, error)
	New     func(Start) (Server, error)

	protocol int // what a test pretends to speak
}

// How long a worker waits where nobody may ever come.
const (
	orphanTimeout = 30 * time.Second // for a supervisor, when it serves nothing
	exitGrace     = 2 * time.Second  // past the deadline of a drain
)

// identity is what the command line says.
type identity struct {
	crew, index, processes, threads, owner int
	access                                 bool
	crash                                  int // the descriptor of our first log
	flight                                 int // and of the recorder
}

func (i identity) name() string { return fmt.Sprintf("%d.%d", i.crew, i.index) }

// process is a running worker.
type process struct {
	child   Child
	id      identity
	server  Server
	log     *slog.Logger
	level   *slog.LevelVar // of log, as the configuration says
	started time.Time
	exit    chan int // the exit code; the first one counts

	preparing sync.Mutex // one configuration is built at a time
	obeying   sync.Mutex // one request is carried out at a time, and none of a supervisor that was replaced

	beats atomic.Pointer[pulse] // where to say that the loops turn

	mu         sync.Mutex // guards what follows
	supervisor *conn      // nil: none
	alone      bool       // the supervisor went away and none has taken over yet
	active     bool       // we were told to accept once
	ending     bool       // we drain
	giver      *giver     // to a successor, that gets our connections
	drain      time.Duration
	sockets    holding
	granted    []grant
	serving    *document
	built      *built
}

// built is a configuration that waits for its commit.
type built struct {
	document document
	config   *lb.Config
	commit   func()
}

// Main serves as a worker process until it is told to end, and returns the
// process's exit code. args are those after the command's name.
func (c Child) Main(args []string) int {
	id, err := parseIdentity(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lbd worker is started by lbd run:", err)
		return 2
	}
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE)
	term := make(chan os.Signal, 2)
	signal.Notify(term, unix.SIGTERM)
	unix.Close(fdBinary)
	// Executed by descriptor, we are called "4"; ps and top shall say better.
	_ = os.WriteFile("/proc/self/comm", []byte("lbd-worker"), 0)
	id.crash = keepCrash()
	runtime.GOMAXPROCS(id.threads + 2) // loops come back from epoll_wait to a P of their own
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // requests leave no garbage: what handshakes leave shall not double an idle heap
	}

	p, err := c.newProcess(id)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lbd worker:", err)
		return 1
	}
	control, err := controlListener()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lbd worker:", err)
		return 1
	}
	return p.run(control, term)
}

func parseIdentity(args []string) (identity, error) {
	var id identity
	set := flag.NewFlagSet("worker", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.IntVar(&id.crew, "crew", 0, "")
	set.IntVar(&id.index, "index", 0, "")
	set.IntVar(&id.processes, "processes", 1, "")
	set.IntVar(&id.threads, "threads", 1, "")
	set.IntVar(&id.owner, "owner", 0, "")
	set.BoolVar(&id.access, "access", false, "")
	if err := set.Parse(args); err != nil {
		return id, err
	}
	if id.crew < 1 || id.threads < 1 {
		return id, fmt.Errorf("crew %d, threads %d", id.crew, id.threads)
	}
	return id, nil
}

func (c Child) newProcess(id identity) (*process, error) {
	level := new(slog.LevelVar)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("worker", id.name(), "pid", os.Getpid())
	p := &process{
		child: c, id: id, log: log, level: level, started: time.Now(), exit: make(chan int, 4),
		drain: 30 * time.Second, sockets: newHolding(),
	}
	start := Start{Name: id.name(), Threads: id.threads, Log: log}
	start.Flight, p.id.flight = keepFlight(id.threads)
	if id.access {
		unix.CloseOnExec(fdAccess)
		start.Access = os.NewFile(fdAccess, "access log")
	}
	server, err := c.New(start)
	if err != nil {
		return nil, err
	}
	p.server = server
	return p, nil
}

// controlListener takes the listening socket that we were started with. The
// kernel shows to whoever connects the process that called listen last: us.
func controlListener() (*net.UnixListener, error) {
	unix.CloseOnExec(fdControl)
	if err := unix.Listen(fdControl, 16); err != nil {
		return nil, fmt.Errorf("serve the control socket: %w", err)
	}
	f := os.NewFile(fdControl, "control")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("serve the control socket: %w", err)
	}
	return l.(*net.UnixListener), nil
}

// run serves until something ends the process.
func (p *process) run(control *net.UnixListener, term <-chan os.Signal) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		if err := p.server.Run(ctx); err != nil {
			p.log.Error("the proxy ended", "err", err)
			p.quit(1)
		}
	}()
	go p.runControl(control)
	unclaimed := time.NewTimer(orphanTimeout)
	defer unclaimed.Stop()
	for {
		select {
		case code := <-p.exit:
			return code
		case <-term:
			if !p.beginDrain(p.drainTimeout()) {
				return 0 // the second one means now
			}
		case <-unclaimed.C:
			if p.unclaimed() {
				p.log.Error("no supervisor came; the end")
				return 1
			}
			unclaimed.Reset(orphanTimeout)
		}
	}
}

func (p *process) quit(code int) {
	select {
	case p.exit <- code:
	default:
	}
}

// unclaimed: we serve nothing and nobody is there to change that.
func (p *process) unclaimed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.active && p.supervisor == nil
}

func (p *process) drainTimeout() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.drain
}

// beginDrain stops accepting and lets what is open finish. It reports false
// when that is under way already.
func (p *process) beginDrain(timeout time.Duration) bool {
	p.mu.Lock()
	if p.ending {
		p.mu.Unlock()
		return false
	}
	p.ending = true
	p.server.Drain(time.Now().Add(timeout)) // takes who waits on the sockets it still accepts on
	p.sockets.closeAll()
	p.mu.Unlock()
	go p.runDrain(timeout)
	return true
}

func (p *process) runDrain(timeout time.Duration) {
	select {
	case <-p.server.Done():
	case <-time.After(timeout + exitGrace):
	}
	p.mu.Lock()
	c := p.supervisor
	p.mu.Unlock()
	if c != nil {
		_ = c.send(message{Op: opBye}, p.server.Stats(), nil) // the last totals, if anybody counts
	}
	p.quit(0)
}

// runControl serves supervisors, one after the other.
func (p *process) runControl(l *net.UnixListener) {
	waiting := make(chan struct{}, 4) // connections that have not said hello, at most
	for {
		u, err := l.AcceptUnix()
		if err != nil {
			p.log.Error("accept on the control socket", "err", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		cred, err := peer(u)
		if err != nil || (int(cred.Uid) != p.id.owner && cred.Uid != 0 && int(cred.Uid) != os.Geteuid()) {
			p.log.Warn("refused a control connection", "err", err)
			u.Close()
			continue
		}
		select {
		case waiting <- struct{}{}:
			go p.serve(newConn(u), func() { <-waiting })
		default:
			u.Close()
		}
	}
}

// serve answers one supervisor until it goes away.
func (p *process) serve(c *conn, greeted func()) {
	err := p.greet(c)
	greeted()
	for err == nil {
		var m message
		if m, err = c.receive(); err == nil {
			p.handle(c, m)
		}
	}
	p.abandoned(c)
	c.close()
}

// greet waits for hello. The newest supervisor is the one that counts.
func (p *process) greet(c *conn) error {
	if err := c.unix.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	m, err := c.receive()
	if err != nil {
		return err
	}
	if m.Op != opHello {
		return fmt.Errorf("%q instead of hello", m.Op)
	}
	if err := c.unix.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	p.obeying.Lock()
	p.mu.Lock()
	old := p.supervisor
	p.supervisor = c
	reply := p.hello()
	p.mu.Unlock()
	p.obeying.Unlock()
	if old != nil {
		old.close()
	}
	return c.send(message{ID: m.ID}, reply, nil)
}

func (p *process) hello() helloReply {
	h := helloReply{
		Protocol: cmp.Or(p.child.protocol, protocol), Version: p.child.Version, Crew: p.id.crew, Index: p.id.index,
		Processes: p.id.processes, Threads: p.id.threads, PID: os.Getpid(), Started: p.started.UnixMilli(),
		Active: p.active, Draining: p.ending, Held: len(p.sockets.held), Access: p.id.access, Crash: p.id.crash, Flight: p.id.flight,
	}
	if p.serving != nil {
		h.Generation = p.serving.Generation
	}
	return h
}

// abandoned: without a supervisor we accept on everything, for nobody else may
// be left to do so. Who serves nothing yet has nothing to go on for, and would
// keep sockets from being bound again.
func (p *process) abandoned(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.supervisor != c {
		return
	}
	p.supervisor = nil
	p.alone = true
	switch {
	case p.ending:
	case p.active:
		p.log.Warn("the supervisor is gone; serving on")
	default:
		p.log.Warn("the supervisor is gone before anything was served; the end")
		p.quit(1)
	}
	if err := p.settle(); err != nil {
		p.log.Error("cannot accept everywhere", "err", err)
	}
}
