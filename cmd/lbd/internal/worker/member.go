package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// phase is where a worker process is in its life.
type phase string

const (
	starting phase = "starting" // it has no configuration yet
	ready    phase = "ready"    // it may be told to accept
	draining phase = "draining" // it finishes what it has
)

// How long one exchange over a control socket may take.
const (
	helloTimeout   = 5 * time.Second
	quickTimeout   = 2 * time.Second // ops that a healthy worker answers in microseconds
	prepareTimeout = 20 * time.Second
)

// member is one worker process as the supervisor sees it.
type member struct {
	crew    *crew
	index   int
	pid     int
	socket  string
	started time.Time
	adopted bool

	cmd   *exec.Cmd // nil: adopted, not our child
	pidfd *os.File  // nil: our child

	flight []byte   // its recorder, mapped; nil: none. Guarded by Fleet.mu until exited
	early  *os.File // its stderr until it is ready; nil: adopted

	exited chan struct{} // closed when the process is gone
	exit   string        // how it ended; read after exited
	last   string        // what it said before it was ready; read after exited
	buried chan struct{} // closed when nothing is left to do about it

	// Guarded by Fleet.mu.
	conn       *conn
	version    string
	access     bool // it writes an access log
	phase      phase
	generation uint64
	granted    []grant
	heard      time.Time // when it last answered a ping
	mute       bool      // it does not
	stuck      []bool    // by thread: its loop does not turn
	state      uint64    // the last state it was sent
	tickets    int64     // the hour of the keys it has
	stats      lb.Stats
	detail     string
}

// connect dials a worker's control socket and exchanges hellos. The connection
// ends with the fleet, at the latest.
func (f *Fleet) connect(ctx context.Context, m *member) (*conn, helloReply, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	var d net.Dialer
	u, err := d.DialContext(ctx, "unix", m.socket)
	if err != nil {
		return nil, helloReply{}, err
	}
	c := newConn(u.(*net.UnixConn))
	stop := context.AfterFunc(f.ctx, c.close)
	f.run(func() {
		defer stop()
		c.runReplies(func(msg message) { f.farewell(m, msg) })
	})
	var h helloReply
	if _, err := c.call(ctx, opHello, helloRequest{protocol, f.options.Version}, nil, &h); err != nil {
		c.close()
		return nil, h, err
	}
	if h.Protocol != protocol {
		c.close()
		return nil, h, fmt.Errorf("it %w %d of the control protocol (lbd %s), we speak %d", errForeign, h.Protocol, h.Version, protocol)
	}
	if err := f.sendTickets(ctx, m, c); err != nil {
		c.close()
		return nil, h, err
	}
	f.sendPulse(ctx, m, c)
	return c, h, nil
}

// errForeign: it answers, but not in a way that we understand.
var errForeign = errors.New("speaks version")

// quick calls an op that needs no work.
func (c *conn) quick(ctx context.Context, op string, body any, fds []int, reply any) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	return c.call(ctx, op, body, fds, reply)
}

// hold gives the worker duplicates of listening sockets, a message's worth at
// a time.
func (c *conn) hold(ctx context.Context, groups []*group) error {
	names, fds := sockets(groups)
	for len(names) > 0 {
		n := min(len(names), maxFDs)
		if _, err := c.quick(ctx, opListen, names[:n], fds[:n], nil); err != nil {
			return fmt.Errorf("hand over sockets: %w", err)
		}
		names, fds = names[n:], fds[n:]
	}
	return nil
}

// letGo makes the worker close its duplicates.
func (c *conn) letGo(ctx context.Context, names []socketName) error {
	_, err := c.quick(ctx, opUnlisten, names, nil, nil)
	return err
}

// sockets lists groups flat.
func sockets(groups []*group) (names []socketName, fds []int) {
	for _, g := range groups {
		for slot, fd := range g.fds {
			names = append(names, socketName{g.name, slot})
			fds = append(fds, fd)
		}
	}
	return names, fds
}

// prepare has the worker build a configuration.
func (c *conn) prepare(ctx context.Context, d document) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	_, err := c.call(ctx, opPrepare, d, d.fds(), nil)
	return err
}

func (c *conn) commit(ctx context.Context, generation uint64) error {
	_, err := c.quick(ctx, opCommit, commitRequest{generation}, nil, nil)
	return err
}

// takeBack asks a worker for all sockets it holds.
func (c *conn) takeBack(ctx context.Context) (map[socketName]int, error) {
	out := map[socketName]int{}
	for from := 0; ; {
		var names []socketName
		fds, err := c.quick(ctx, opHeld, heldRequest{from}, nil, &names)
		if err == nil && len(fds) != len(names) {
			err = fmt.Errorf("%d names for %d sockets", len(names), len(fds))
		}
		if err != nil {
			closeAll(fds)
			for _, fd := range out {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("take sockets back: %w", err)
		}
		for i, name := range names {
			out[name] = fds[i]
		}
		if len(names) == 0 {
			return out, nil
		}
		from += len(names)
	}
}

// signal sends to exactly this process, never to one that took its number.
func (m *member) signal(s syscall.Signal) {
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(s) // gone is what we want
		return
	}
	if raw, err := m.pidfd.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	}
}

// wait returns when the process is gone.
func (m *member) wait() string {
	if m.cmd != nil {
		_ = m.cmd.Wait()
		return m.cmd.ProcessState.String()
	}
	for {
		fds := []unix.PollFd{{Fd: int32(m.pidfd.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, -1); n > 0 || (err != nil && err != unix.EINTR) {
			return reap(m.pid)
		}
	}
}

// reap takes the exit status of an adopted worker that is our child all the
// same, started by the program that ran in this process before.
func reap(pid int) string {
	var status unix.WaitStatus
	if n, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); err != nil || n != pid {
		return "exited"
	}
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

func (m *member) gone() bool {
	select {
	case <-m.exited:
		return true
	default:
		return false
	}
}

// failedStart explains why a worker that we started did not become ready: how
// it ended and what it said count for more than what we saw of it.
func (m *member) failedStart(err error) error {
	if errors.Is(err, errForeign) { // it ends because we hang up
		return fmt.Errorf("worker %s: %w", m.name(), err)
	}
	select {
	case <-m.exited:
		if m.last == "" {
			return fmt.Errorf("worker %s ended at its start (%s) and said nothing", m.name(), m.exit)
		}
		return fmt.Errorf("worker %s ended at its start (%s): %s", m.name(), m.exit, lastLines(m.last))
	case <-time.After(200 * time.Millisecond): // a connection ends before its process does
	}
	if text := said(m.early); text != "" {
		return fmt.Errorf("worker %s (pid %d): %w; it said: %s", m.name(), m.pid, err, lastLines(text))
	}
	return fmt.Errorf("worker %s (pid %d): %w", m.name(), m.pid, err)
}

func (m *member) name() string { return fmt.Sprintf("%d.%d", m.crew.number, m.index) }

// place says what assign needs to know; call it with Fleet.mu held.
func (m *member) place() place {
	if m == nil || m.phase != ready || m.mute || m.gone() {
		return place{}
	}
	return place{true, m.stuck}
}

func (m *member) info() WorkerInfo {
	i := WorkerInfo{
		Crew: m.crew.number, Index: m.index, PID: m.pid, State: string(m.phase), Generation: m.generation, Connections: m.stats.Connections,
		Version: m.version, Since: m.started, Adopted: m.adopted, Detail: m.detail,
	}
	for _, g := range m.granted {
		i.Slots = append(i.Slots, g.Slot)
	}
	slices.Sort(i.Slots)
	if m.phase == ready {
		i.Ready = m.place().ready
		if m.mute || slices.Contains(m.stuck, true) {
			i.State = "stuck"
		}
	}
	return i
}
