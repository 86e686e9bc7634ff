package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// crew is the workers of one start or upgrade. Its slots are numbered through:
// thread t of worker w has slot w*threads+t.
type crew struct {
	number    int
	processes int
	threads   int
	name      string   // argv[0]
	binary    *os.File // kept open: whoever is replaced gets a successor of the same program

	seats []*chair // Guarded by Fleet.mu.
}

// chair is a worker's place in its crew. Processes come and go on it.
type chair struct {
	member   *member // nil: down
	restarts int
	delay    time.Duration // before the next start; grows while starts fail
	detail   string        // why it is down
	called   bool          // somebody sees to it that it is taken
	drained  time.Time     // it shall stay empty, since then; zero: it shall not
}

// vacant: somebody has to come. Call it with Fleet.mu held.
func (s *chair) vacant() bool { return s.member == nil && s.drained.IsZero() }

func (c *crew) slots() int { return c.processes * c.threads }

// newCrew opens the program that its workers run.
func newCrew(number int, binary string, w lb.WorkerSettings) (*crew, error) {
	f, err := openBinary(binary)
	if err != nil {
		return nil, err
	}
	processes := max(1, w.Processes)
	return assemble(number, processes, threads(w.Threads, processes), filepath.Base(binary), f), nil
}

func assemble(number, processes, threads int, name string, binary *os.File) *crew {
	c := &crew{number: number, processes: processes, threads: threads, name: name, binary: binary}
	for range processes {
		c.seats = append(c.seats, &chair{})
	}
	return c
}

func openBinary(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the workers' program: %w", err)
	}
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Mode()&0o111 == 0) {
		err = fmt.Errorf("%s is not a program that can be run", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// start starts all workers of the crew and makes them ready for u, or none.
// Whoever changes crews holds the turn.
func (f *Fleet) start(ctx context.Context, c *crew, prepare func(*member) error) error {
	var all sync.WaitGroup
	errs := make([]error, c.processes)
	for i := range c.processes {
		all.Go(func() {
			m, err := f.launch(ctx, c, i)
			if err == nil {
				if err = prepare(m); err != nil && !aboutDocument(err) {
					err = m.failedStart(err)
				}
			}
			errs[i] = err
		})
	}
	all.Wait()
	if err := firstOf(errs); err != nil {
		f.dismiss(c)
		return err
	}
	return nil
}

// firstOf prefers what a document says is wrong, which all workers say alike.
func firstOf(errs []error) error {
	for _, err := range errs {
		if aboutDocument(err) {
			return err
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// aboutDocument: the configuration is at fault, not the worker.
func aboutDocument(err error) bool {
	var es lb.Errors
	return errors.As(err, &es)
}

// launch starts one worker and connects to it.
func (f *Fleet) launch(ctx context.Context, c *crew, index int) (*member, error) {
	as, note, err := credential(f.userName())
	if err != nil {
		return nil, err
	}
	f.note("user", note)
	m, err := f.spawn(c, index, as)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	c.seats[index].member = m
	f.mu.Unlock()
	if err := f.attach(ctx, m); err != nil {
		err = m.failedStart(err)
		m.signal(unix.SIGKILL)
		return nil, err
	}
	return m, nil
}

// attach connects to a worker, whoever started it.
func (f *Fleet) attach(ctx context.Context, m *member) error {
	c, h, err := f.connect(ctx, m)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.flight = openFlight(m.pid, h.Flight, h.Threads)
	m.conn, m.version, m.access, m.generation, m.heard = c, h.Version, h.Access, h.Generation, time.Now()
	return nil
}

// equip brings a new worker to the configuration that runs: sockets,
// configuration, state. It accepts nothing yet.
func (f *Fleet) equip(ctx context.Context, m *member, groups []*group, u *Update) error {
	if err := m.conn.hold(ctx, groups); err != nil {
		return err
	}
	if err := m.conn.prepare(ctx, u.packed); err != nil {
		return err
	}
	return m.conn.commit(ctx, u.Generation)
}

// enlist makes an equipped worker one that may be told to accept.
func (f *Fleet) enlist(ctx context.Context, m *member, generation uint64) {
	f.mu.Lock()
	m.phase, m.generation, m.detail = ready, generation, ""
	state, version := f.state, f.stateVersion
	conn := m.conn
	f.mu.Unlock()
	if version > 0 {
		if _, err := conn.quick(ctx, opState, state, nil, nil); err == nil {
			f.mu.Lock()
			m.state = version
			f.mu.Unlock()
		}
	}
	f.settleLogs(ctx, m)
	f.run(func() { f.runPing(m) })
	f.event("worker.start", m, "")
}

// settleLogs moves a worker's stderr from its first log to where workers write.
func (f *Fleet) settleLogs(ctx context.Context, m *member) {
	if m.early == nil {
		return
	}
	if _, err := m.conn.quick(ctx, opLogs, logsRequest{}, []int{int(f.stderr.Fd())}, nil); err != nil {
		f.options.Log.Warn("a worker keeps its first log", "worker", m.name(), "err", err)
		return
	}
	if text := said(m.early); text != "" {
		fmt.Fprintln(f.stderr, text)
	}
}

// staff sees to places that nobody is on: their worker ended before its crew was
// the one that serves.
func (f *Fleet) staff(c *crew) {
	f.mu.Lock()
	var empty []int
	for i, s := range c.seats {
		if s.vacant() {
			empty = append(empty, i)
		}
	}
	f.mu.Unlock()
	for _, i := range empty {
		f.fill(c, i, 0)
	}
}

// dismiss kills what there is of a crew that never served.
func (f *Fleet) dismiss(c *crew) {
	f.mu.Lock()
	var members []*member
	for _, s := range c.seats {
		if s.member != nil {
			members = append(members, s.member)
			s.member = nil
		}
	}
	f.mu.Unlock()
	for _, m := range members {
		m.signal(unix.SIGKILL)
	}
	for _, m := range members {
		<-m.exited
	}
	c.binary.Close()
}

// members lists the crew's processes that are connected.
func (f *Fleet) members(c *crew) []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*member
	if c == nil {
		return nil
	}
	for _, s := range c.seats {
		if s.member != nil && s.member.conn != nil {
			out = append(out, s.member)
		}
	}
	return out
}
