package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
)

// An upgrade of the supervisor executes the next program in its place: the
// process keeps its number, so whoever started it need not know. Workers, their
// sockets and the configuration are found again as after a crash; the few
// things that only a living supervisor has go along in a handover.
//
// Four nets are under it, from the cheapest. A trial run says that the program
// starts, reads the file and speaks our versions. The workers are replaced
// before, so it has been seen to serve. A successor that meets an error, or does
// not serve in time, executes the old program again. And a guard, a process of
// the old program, becomes the supervisor when the successor dies without a word.

// handoverVersion is of the handover's form.
const handoverVersion = 1

// handoverEnv is where a successor finds it.
const handoverEnv = "LBD_HANDOVER"

// How long a successor has.
const (
	serveTimeout = 20 * time.Second // until it serves
	guardTimeout = serveTimeout + 10*time.Second
	mainTimeout  = 5 * time.Second // for systemd to hear that it is another process
)

// handover is what a supervisor leaves to the program executed in its place.
// The numbers are those of open descriptors.
type handover struct {
	Version int       `json:"version"`
	From    string    `json:"from"`              // the version of lbd that leaves
	Path    string    `json:"path"`              // where the next upgrade finds a program
	Tried   string    `json:"tried,omitempty"`   // what is executed
	PID     int       `json:"pid"`               // of the supervisor
	RunDir  string    `json:"run_dir"`           // which it was
	Boot    lb.BootID `json:"boot"`              // as gossip knows us
	Admin   int       `json:"admin"`             // the admin API's listener
	Socket  string    `json:"socket"`            // its path
	HTTP    int       `json:"http,omitempty"`    // admin.http's listener; 0: none
	Address string    `json:"address,omitempty"` // its address
	Old     int       `json:"old"`               // the program that leaves
	Guard   int       `json:"guard,omitempty"`   // a byte written there says that we serve
	Watch   int       `json:"watch,omitempty"`   // the guard's process
	Signals []int     `json:"signals,omitempty"` // that came and were not obeyed
	Trouble string    `json:"trouble,omitempty"` // why the successor did not serve, for the old program when it is back

	once sync.Once // it is confirmed, or the old program is back
}

// inherited is the handover that this process was executed with; nil: none.
func inherited() (*handover, error) {
	text := os.Getenv(handoverEnv)
	if text == "" {
		return nil, nil
	}
	os.Unsetenv(handoverEnv)
	h := &handover{}
	if err := json.Unmarshal([]byte(text), h); err != nil {
		return nil, fmt.Errorf("read the handover: %w", err)
	}
	for _, fd := range h.descriptors() {
		unix.CloseOnExec(fd)
	}
	// Executed by descriptor we are called by its number.
	_ = os.WriteFile("/proc/self/comm", []byte("lbd"), 0)
	if h.Version != handoverVersion {
		return h, fmt.Errorf("the handover is of version %d, this lbd reads %d", h.Version, handoverVersion)
	}
	return h, nil
}

func (h *handover) descriptors() []int {
	var fds []int
	for _, fd := range []int{h.Admin, h.HTTP, h.Old, h.Guard} {
		if fd > 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// inheritListener gives back an inherited listener when it is the one wanted.
func inheritListener(fd int, was, want string) net.Listener {
	if fd <= 0 || was != want {
		return nil
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(dup), was)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil
	}
	return l
}

// confirm ends the handover: we serve.
func (h *handover) confirm() {
	h.once.Do(func() {
		if h.Guard > 0 {
			_, _ = unix.Write(h.Guard, []byte{'+'})
		}
		for _, fd := range h.descriptors() {
			unix.Close(fd)
		}
		if h.Watch > 0 {
			reap(h.Watch)
		}
	})
}

// reap waits for a child that we inherited.
func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// back executes the old program again. It returns when there is none, or when
// that fails, with what went wrong first.
func (h *handover) back(why error) error {
	if why == nil || h == nil || h.Old <= 0 || h.Trouble != "" {
		return why
	}
	h.once.Do(func() {
		n := &handover{
			Version: handoverVersion, From: h.From, Path: h.Path, Tried: h.Tried, Boot: h.Boot, RunDir: h.RunDir,
			Admin: h.Admin, Socket: h.Socket, HTTP: h.HTTP, Address: h.Address, Old: h.Old, Guard: h.Guard, Watch: h.Watch,
			Signals: h.Signals, Trouble: why.Error(),
		}
		why = errors.Join(why, n.execute("/proc/self/fd/"+strconv.Itoa(h.Old), nil))
	})
	return why
}

// execute replaces this process. Signals that came and were not obeyed go
// along; those that come from now on wait until the successor listens.
func (h *handover) execute(path string, missed <-chan os.Signal) error {
	for _, fd := range h.descriptors() {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("hand descriptor %d over: %w", fd, err)
		}
	}
	runtime.LockOSThread() // signal masks and execution are of one thread
	defer runtime.UnlockOSThread()
	block()
	h.Signals = append(h.Signals, drained(missed)...)
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, os.Args, append(os.Environ(), handoverEnv+"="+string(text)))
	return fmt.Errorf("execute %s: %w", path, err)
}

// kept are the signals that mean something to a supervisor; by default each of
// them would end one that does not listen yet.
var kept = []os.Signal{unix.SIGHUP, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2}

// block keeps them from this thread, the only one that survives an execution.
func block() {
	var set unix.Sigset_t
	for _, s := range kept {
		n := uint(s.(syscall.Signal)) - 1
		set.Val[n/64] |= 1 << (n % 64)
	}
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

// signalLag is how long a signal may take from the kernel to its channel.
const signalLag = 2 * time.Millisecond

func drained(missed <-chan os.Signal) (all []int) {
	if missed == nil {
		return nil
	}
	for {
		select {
		case s := <-missed:
			all = append(all, int(s.(syscall.Signal)))
		case <-time.After(signalLag):
			return all
		}
	}
}

// watch confirms when we serve, and goes back when that takes too long.
func (d *daemon) watch(done <-chan struct{}) {
	select {
	case <-d.node.Serving():
		d.took()
	case <-time.After(serveTimeout):
		err := d.over.back(fmt.Errorf("it did not serve within %v", serveTimeout))
		d.log.Error("upgrade of the supervisor", "err", err)
	case <-done:
	}
}

// took tells what became of the handover.
func (d *daemon) took() {
	h := d.over
	h.confirm()
	e := lb.Event{Time: time.Now(), Kind: "node.supervisor", Subject: d.config.Node.Name,
		Detail: fmt.Sprintf("lbd %s took over from %s", thisVersion(), h.From)}
	if h.Trouble != "" {
		e.Kind, e.Detail = "node.upgrade-failed", fmt.Sprintf("the supervisor of %s did not serve and the old one goes on: %s", h.Tried, h.Trouble)
	}
	d.log.Info(e.Detail)
	d.node.Note(e)
}

// handOver closes what the successor opens and executes it. It returns only if
// not even the old program can be executed.
func (d *daemon) handOver(path string) error {
	old, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	h := &handover{
		Version: handoverVersion, From: thisVersion(), Path: d.binary, Tried: path, Boot: d.identity, RunDir: d.config.Node.RunDir,
		Admin: d.kept.admin, Socket: d.config.Admin.Socket, HTTP: d.kept.http, Address: d.config.Admin.HTTP, Old: int(old.Fd()),
	}
	if err := h.post(); err != nil {
		d.log.Warn("nobody guards the upgrade", "err", err)
	}
	why := h.execute(path, d.signals)
	defer runtime.KeepAlive(old) // its descriptor is in h
	return h.back(why)
}

// keepListeners makes duplicates that outlive their servers.
func (d *daemon) keepListeners() (err error) {
	if d.kept.admin, err = duplicate(d.socket); err != nil {
		return err
	}
	if d.http != nil {
		d.kept.http, err = duplicate(d.http)
	}
	return err
}

func duplicate(l net.Listener) (int, error) {
	c, ok := l.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("keep %s: it is no socket", l.Addr())
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	fd := 0
	var inner error
	err = raw.Control(func(from uintptr) { fd, inner = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 10) })
	return fd, errors.Join(err, inner)
}

// What the guard finds open.
const (
	guardPair    = 3
	guardProgram = 4
)

// post starts the guard.
func (h *handover) post() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// In the guard's numbers, which follow standard input, output and error. It
	// gets no listener: while nobody serves, who connects shall be told so.
	g := &handover{Version: h.Version, From: h.From, Path: h.Path, Tried: h.Tried, Boot: h.Boot, RunDir: h.RunDir, PID: os.Getpid(), Old: guardProgram}
	program, err := unix.FcntlInt(uintptr(h.Old), unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return err
	}
	files := []*os.File{os.NewFile(uintptr(pair[1]), "guard"), os.NewFile(uintptr(program), "program")}
	text, err := json.Marshal(g)
	if err != nil {
		return err
	}
	c := &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{os.Args[0], "guard"}, os.Args[1:]...), Stdout: os.Stdout, Stderr: os.Stderr,
		Env: append(os.Environ(), handoverEnv+"="+string(text)), ExtraFiles: files,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = c.Start()
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		unix.Close(pair[0])
		return fmt.Errorf("start the guard: %w", err)
	}
	h.Guard, h.Watch = pair[0], c.Process.Pid
	return nil
}

// guard waits for a successor to serve. One that ends or hangs is replaced: by
// us. args are those of the supervisor.
func guard(args []string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	signal.Ignore(kept...)
	h, err := inherited()
	if h == nil || err != nil {
		fmt.Fprintln(os.Stderr, "lbd guard is started by lbd run:", err)
		return exitUsage
	}
	pidfd, err := unix.PidfdOpen(h.PID, 0)
	if err != nil || os.Getppid() != h.PID {
		pidfd = -1 // it is gone; its end of the pair says so
	}
	unix.CloseOnExec(guardPair)
	said := os.NewFile(guardPair, "pair")
	trouble := "it ended before it served"
	switch heard(said, guardTimeout) {
	case nil:
		return 0
	case os.ErrDeadlineExceeded:
		trouble = fmt.Sprintf("it did not serve within %v", guardTimeout)
		if pidfd >= 0 {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 5000)
		}
	}
	if taken(h.RunDir, h.PID) {
		return 0
	}
	log.Error("the new supervisor is replaced by the old one", "program", h.Tried, "why", trouble)
	h.Trouble = trouble
	os.Args = append([]string{os.Args[0]}, args...)
	hurry, cancel := context.WithTimeout(context.Background(), mainTimeout)
	insist(hurry, "MAINPID="+strconv.Itoa(os.Getpid()))
	cancel()
	err = h.execute("/proc/self/fd/"+strconv.Itoa(h.Old), nil)
	log.Error("guard", "err", err)
	return exitError
}

// yieldTime is what the guard leaves to whoever restarts what ends: workers
// serve alone meanwhile.
const yieldTime = 1500 * time.Millisecond

// taken reports whether another supervisor than the one with that pid started
// meanwhile. Only at the end does it touch the lock, which a start wants.
func taken(dir string, was int) bool {
	for end := time.Now().Add(yieldTime); time.Now().Before(end); time.Sleep(yieldTime / 30) {
		if pid := worker.LockedBy(dir); pid != 0 && pid != was {
			return true
		}
	}
	lock, err := worker.Lock(dir)
	if err != nil {
		return true
	}
	lock.Close()
	return false
}

// heard waits for the word that all is well: a byte. An end without it is
// io.EOF.
func heard(from *os.File, limit time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(from.Fd()), Events: unix.POLLIN}}
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end).Milliseconds())))
		switch {
		case err == unix.EINTR:
			continue
		case n == 0:
			return os.ErrDeadlineExceeded
		}
		_, err = bufio.NewReader(from).ReadByte()
		return err
	}
}
