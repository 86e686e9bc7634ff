package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// found is a worker that an earlier supervisor left.
type found struct {
	member *member
	hello  helloReply
}

// adopt takes over what an earlier supervisor left in the run directory:
// workers, and through them sockets and configuration.
func (f *Fleet) adopt(ctx context.Context) error {
	all, err := f.find(ctx)
	if err != nil {
		return err
	}
	return f.takeOver(ctx, all)
}

// takeOver goes on with these workers. Each of them may end meanwhile: what one
// knows the others know, too, and without any left there is nothing to adopt.
func (f *Fleet) takeOver(ctx context.Context, all []found) error {
	reapStrays(all)
	current := choose(all)
	if err := f.crewOf(current); err != nil {
		return err
	}
	if f.crew != nil {
		f.recallDrains(f.crew)
	}
	f.recount(all)
	for _, w := range all {
		f.lastCrew = max(f.lastCrew, w.hello.Crew)
		go f.runWatch(w.member) // ends with the process it watches, not with us
	}
	f.part(all, current)
	if len(current) == 0 {
		return nil
	}
	u, err := f.documentOf(ctx, current)
	if err == nil {
		f.update, f.adopted = u, u
		err = f.socketsOf(ctx, current)
	}
	if errors.Is(err, errGone) {
		f.options.Log.Error("the workers to adopt have ended; others are started")
		f.abandon()
		return nil
	}
	if err != nil {
		return err
	}
	f.level(ctx, current, u)
	return nil
}

// abandon forgets a crew that ended while it was adopted.
func (f *Fleet) abandon() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crew.binary.Close()
	f.crew, f.slots, f.update, f.adopted = nil, 0, nil, nil
}

// reapStrays waits for children that are no workers to adopt: those of the
// program that ran in this process before, which end or have ended. Who is
// called must not have started any yet.
func reapStrays(all []found) {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil || slices.ContainsFunc(all, func(w found) bool { return w.member.pid == pid }) {
				continue
			}
			go unix.Wait4(pid, nil, 0, nil)
		}
	}
}

// find connects to every worker in the run directory. A socket that nobody
// serves is removed, with its worker if that is beyond help.
func (f *Fleet) find(ctx context.Context) ([]found, error) {
	paths, err := filepath.Glob(filepath.Join(f.options.RunDir, controlSockets))
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards out and errs
	var out []found
	var errs []error
	var each sync.WaitGroup
	for _, path := range paths {
		each.Go(func() {
			w, err := f.reach(ctx, path)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				out = append(out, w)
			case errors.Is(err, errGone):
				_ = os.Remove(path)
			default: // it may serve, and we cannot start another beside it
				errs = append(errs, fmt.Errorf("adopt the worker at %s: %w", path, err))
			}
		})
	}
	each.Wait()
	slices.SortFunc(out, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.hello.Crew, b.hello.Crew), cmp.Compare(a.hello.Index, b.hello.Index))
	})
	return out, errors.Join(errs...)
}

// A worker may be just starting, or ending: it is asked again for a while.
const (
	reachTries = 30
	reachTick  = 100 * time.Millisecond
)

// errGone: nobody serves a control socket any more.
var errGone = errors.New("its worker is gone")

// reach connects to one worker and gets hold of its process.
func (f *Fleet) reach(ctx context.Context, path string) (w found, err error) {
	for range reachTries {
		w, err = f.reachOnce(ctx, path)
		switch {
		case err == nil || errors.Is(err, errForeign):
			return w, err
		case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist):
			return w, errGone // nobody has the socket open
		case errors.Is(err, context.DeadlineExceeded):
			return w, f.putDown(path)
		}
		select {
		case <-time.After(reachTick):
		case <-ctx.Done():
			return w, ctx.Err()
		}
	}
	return w, err
}

func (f *Fleet) reachOnce(ctx context.Context, path string) (found, error) {
	m := &member{socket: path, adopted: true, exited: make(chan struct{}), buried: make(chan struct{}), phase: ready}
	c, h, err := f.connect(ctx, m)
	if err != nil {
		return found{}, err
	}
	if err := f.identify(ctx, m, c, h); err != nil {
		c.close()
		return found{}, err
	}
	m.early, m.flight = lastLog(h.PID, h.Crash), openFlight(h.PID, h.Flight, h.Threads)
	m.conn, m.index, m.version, m.access, m.generation = c, h.Index, h.Version, h.Access, h.Generation
	m.started, m.heard = time.UnixMilli(h.Started), time.Now()
	// Until it has a crew of ours it has one of its own.
	m.crew = assemble(h.Crew, h.Processes, h.Threads, "lbd", nil)
	return found{m, h}, nil
}

// putDown kills a worker that takes connections and answers nothing: while it
// holds our sockets, they may be bound by nobody else. Without its pid (it
// never came as far as serving its socket) it has to end by itself.
func (f *Fleet) putDown(path string) error {
	pid, err := kill(path)
	if pid != 0 {
		f.options.Log.Error("a worker that does not answer is killed", "pid", pid)
	}
	if err != nil {
		return err
	}
	return errGone
}

// KillAll ends the workers that a supervisor left in its run directory when it
// died, and says how many. Who calls it holds the directory's lock.
func KillAll(runDir string) (killed int, err error) {
	paths, err := filepath.Glob(filepath.Join(runDir, controlSockets))
	errs := []error{err}
	for _, path := range paths {
		pid, err := kill(path)
		if errs = append(errs, err); err != nil {
			continue
		}
		if pid != 0 {
			killed++
		}
		_ = os.Remove(path)
	}
	return killed, errors.Join(errs...)
}

// kill ends the worker that serves a control socket, if one does; then pid is its.
func kill(path string) (pid int, err error) {
	u, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return 0, nil
	}
	defer u.Close()
	cred, err := peer(u)
	if err != nil {
		return 0, err
	}
	fd, err := unix.PidfdOpen(int(cred.Pid), 0)
	if err != nil {
		return 0, nil
	}
	defer unix.Close(fd)
	text, err := os.ReadFile("/proc/" + strconv.Itoa(int(cred.Pid)) + "/cmdline")
	if err != nil || !bytes.Contains(text, []byte("\x00worker\x00--crew\x00")) {
		return 0, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return 0, err
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(helloTimeout.Milliseconds())); n == 0 {
		return 0, fmt.Errorf("pid %d does not die (%v)", cred.Pid, err)
	}
	return int(cred.Pid), nil
}

// identify opens a pidfd of the process that serves the socket. The pid is the
// kernel's word, not the worker's; that it still answers afterwards proves that
// the pidfd is its own and not that of a later process with its number.
func (f *Fleet) identify(ctx context.Context, m *member, c *conn, h helloReply) error {
	cred, err := peer(c.unix)
	if err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("it belongs to uid %d", cred.Uid)
	}
	if int(cred.Pid) != h.PID {
		return fmt.Errorf("pid %d serves it, which calls itself %d", cred.Pid, h.PID)
	}
	fd, err := unix.PidfdOpen(int(cred.Pid), 0)
	if err != nil {
		return fmt.Errorf("watch pid %d: %w", cred.Pid, err)
	}
	if _, err := c.quick(ctx, opPing, nil, nil, nil); err != nil {
		unix.Close(fd)
		return err
	}
	m.pid, m.pidfd = h.PID, os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// choose picks the crew that goes on: the newest that was told to accept. A
// crew whose upgrade was cut short never was.
func choose(all []found) []found {
	newest := -1
	for _, w := range all {
		if w.hello.Active && !w.hello.Draining {
			newest = max(newest, w.hello.Crew)
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(w found) bool {
		return w.hello.Crew != newest || w.hello.Draining || w.hello.Generation == 0
	})
}

// part sends the others away: those that served drain, the rest is killed.
func (f *Fleet) part(all, current []found) {
	var leaving []*member
	for _, w := range all {
		if slices.Contains(current, w) {
			continue
		}
		if !w.hello.Active {
			w.member.signal(unix.SIGKILL)
			<-w.member.exited // with it goes its hold on sockets
			continue
		}
		w.member.phase = draining
		leaving = append(leaving, w.member)
	}
	f.mu.Lock()
	f.leaving = append(f.leaving, leaving...)
	f.mu.Unlock()
	f.move(leaving, membersOf(current))
	f.drain(leaving, f.drainTimeout())
	for _, m := range leaving {
		f.run(func() { f.runPing(m) })
	}
}

func membersOf(all []found) (out []*member) {
	for _, w := range all {
		out = append(out, w.member)
	}
	return out
}

// crewOf seats the adopted workers. Their program is opened through one of
// them: it need not be the one at our path any more.
func (f *Fleet) crewOf(current []found) error {
	if len(current) == 0 {
		return nil
	}
	h := current[0].hello
	if h.Processes < 1 || h.Processes > 1024 || h.Threads < 1 || h.Threads > 4096 {
		return fmt.Errorf("worker pid %d says its crew has %d processes of %d threads", h.PID, h.Processes, h.Threads)
	}
	binary, err := os.Open("/proc/" + strconv.Itoa(h.PID) + "/exe")
	if err != nil {
		if binary, err = openBinary(f.options.Binary); err != nil {
			return err
		}
	}
	c := assemble(h.Crew, h.Processes, h.Threads, filepath.Base(f.options.Binary), binary)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range current {
		if w.hello.Index >= 0 && w.hello.Index < len(c.seats) {
			w.member.crew = c
			c.seats[w.hello.Index].member = w.member
		}
	}
	f.crew, f.slots = c, c.slots()
	return nil
}

// level brings all adopted workers to the same sockets and configuration, and
// sees to empty places.
func (f *Fleet) level(ctx context.Context, current []found, u *Update) {
	for _, w := range current {
		m := w.member
		var err error
		if w.hello.Generation != u.Generation || w.hello.Held < len(f.groups)*f.slots {
			err = f.equip(ctx, m, f.groups, u)
		}
		if err != nil {
			f.options.Log.Error("an adopted worker did not follow and is replaced", "pid", m.pid, "err", err)
			m.signal(unix.SIGKILL)
			continue
		}
		f.mu.Lock()
		m.generation = u.Generation
		f.mu.Unlock()
		f.run(func() { f.runPing(m) })
		f.event("worker.adopt", m, "")
		f.options.Log.Info("adopted a worker", "worker", m.name(), "pid", m.pid, "generation", u.Generation)
	}
	f.staff(f.crew)
}

func workersOf(c *crew) lb.WorkerSettings {
	return lb.WorkerSettings{Processes: c.processes, Threads: c.threads}
}
