package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxLeaving bounds how many old workers may drain at once: upgrades in a row
// must not pile up processes.
const maxLeaving = 64

// Upgrade starts a new crew from binary ("" is Options.Binary), has it take
// over all sockets, and lets the old crew drain. When the new crew is not ready
// in time it is killed, the old one keeps serving and the error says why.
func (f *Fleet) Upgrade(ctx context.Context, binary string) error {
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.release()
	if binary == "" {
		binary = f.options.Binary
	}
	if err := f.upgrade(ctx, binary); err != nil {
		f.tell(eventOf("crew.refused", binary, err.Error()))
		return fmt.Errorf("upgrade to %s: %w; the old workers keep serving", binary, err)
	}
	f.tell(eventOf("crew.upgrade", binary, ""))
	return nil
}

func (f *Fleet) upgrade(ctx context.Context, binary string) error {
	f.mu.Lock()
	old, u, busy := f.crew, f.update, len(f.leaving)
	f.mu.Unlock()
	if old == nil || u == nil {
		return errors.New("nothing runs yet")
	}
	if busy+old.processes > maxLeaving {
		return fmt.Errorf("%d old workers still drain", busy)
	}
	c, err := f.successor(old, binary, u)
	if err != nil {
		return err
	}
	groups, err := f.widen(c.slots())
	if err != nil {
		c.binary.Close()
		return err
	}
	ready, cancel := context.WithTimeoutCause(ctx, f.options.ReadyTimeout,
		fmt.Errorf("not ready within %v", f.options.ReadyTimeout))
	defer cancel()
	if err := f.start(ready, c, func(m *member) error { return f.equip(ready, m, groups, u) }); err != nil {
		f.narrow()
		return err
	}
	return f.handOver(ctx, old, c, u)
}

// successor is the crew that shall follow: of the size that the configuration
// asks for now.
func (f *Fleet) successor(old *crew, binary string, u *Update) (*crew, error) {
	if u.Config != nil {
		return newCrew(f.nextCrew(), binary, u.Config.Workers)
	}
	c, err := newCrew(f.nextCrew(), binary, workersOf(old))
	return c, err
}

// nextCrew numbers crews; the number outlives this process in the names of
// control sockets.
func (f *Fleet) nextCrew() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastCrew++
	return f.lastCrew
}

// handOver is the switch: the new crew accepts, then the old one stops and
// drains. Nobody listens less for a moment.
func (f *Fleet) handOver(ctx context.Context, old, c *crew, u *Update) error {
	f.mu.Lock()
	slots := f.slots
	groups := slices.Clone(f.groups)
	f.mu.Unlock()
	for _, g := range groups {
		if err := g.listen(slots); err != nil {
			f.dismiss(c)
			f.narrow()
			return err
		}
	}
	f.mu.Lock()
	f.crew = c
	f.slots = max(slots, c.slots())
	leaving := f.leave(old)
	f.mu.Unlock()

	for _, m := range f.members(c) {
		f.enlist(ctx, m, u.Generation)
	}
	f.settleNow(ctx)
	f.staff(c)
	f.move(leaving, f.members(c))
	f.drain(leaving, f.drainTimeout())
	old.binary.Close()
	if c.slots() < slots {
		f.run(func() { f.runNarrow(c) })
	}
	if u.Config != nil {
		f.noteWorkers(u.Config)
	}
	f.note("access", "")
	f.note("drained", "")
	wake(f.changed)
	return nil
}

// leave makes a crew's workers ones that drain; call it with mu held.
func (f *Fleet) leave(c *crew) []*member {
	var out []*member
	for _, s := range c.seats {
		if s.member != nil {
			s.member.phase = draining
			out = append(out, s.member)
			s.member = nil
		}
	}
	f.leaving = append(f.leaving, out...)
	return out
}

// drain tells workers to finish and exit, and sees to it that they do.
func (f *Fleet) drain(members []*member, timeout time.Duration) {
	_ = each(members, func(m *member) error {
		f.mu.Lock()
		c := m.conn
		f.mu.Unlock()
		err := errors.New("not connected yet")
		if c != nil {
			_, err = c.quick(f.ctx, opDrain, drainRequest{timeout.Milliseconds()}, nil, nil)
		}
		if err != nil {
			m.signal(unix.SIGTERM) // says the same
		}
		f.run(func() { f.runEnd(m, timeout) })
		return nil
	})
}

// endGrace is how much longer than its drain a worker may live.
const endGrace = 3 * time.Second

// runEnd kills a worker that outlives its drain.
func (f *Fleet) runEnd(m *member, timeout time.Duration) {
	select {
	case <-m.exited:
	case <-time.After(timeout + endGrace):
		f.options.Log.Error("a worker outlived its drain and is killed", "worker", m.name(), "pid", m.pid)
		m.signal(unix.SIGKILL)
	case <-f.ctx.Done():
	}
}

// widen makes room for a crew of more slots; the new sockets do not listen yet.
func (f *Fleet) widen(slots int) ([]*group, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		if err := g.grow(slots); err != nil {
			for _, g := range f.groups {
				g.shrink(f.slots)
			}
			return nil, err
		}
	}
	return slices.Clone(f.groups), nil
}

// narrow closes the sockets of slots that there are not, or not any more.
func (f *Fleet) narrow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		g.shrink(f.slots)
	}
}

// How long the slots of a larger crew are served on after it has gone: until
// nobody waits there, and no longer than this.
const (
	narrowTick = 100 * time.Millisecond
	narrowMost = 10 * time.Second
)

// runNarrow closes the slots that a smaller crew has no thread for. Steering
// avoids them already, and they are adopted; what waits is accepted first.
func (f *Fleet) runNarrow(c *crew) {
	for end := time.Now().Add(narrowMost); time.Now().Before(end); {
		select {
		case <-time.After(narrowTick):
		case <-f.ctx.Done():
			return
		}
		if f.quiet(c.slots()) {
			break
		}
	}
	if f.take(f.ctx) != nil {
		return
	}
	defer f.release()
	f.mu.Lock()
	if f.crew != c || f.slots <= c.slots() {
		f.mu.Unlock()
		return
	}
	f.slots = c.slots()
	var names []socketName
	for _, g := range f.groups {
		for slot := len(g.fds) - 1; slot >= c.slots(); slot-- {
			names = append(names, socketName{g.name, slot})
		}
	}
	f.mu.Unlock()
	f.settleNow(f.ctx)
	_ = each(f.everybody(), func(m *member) error { return m.conn.letGo(f.ctx, names) })
	f.narrow()
	f.settleNow(f.ctx)
	wake(f.changed)
}

// quiet reports whether nobody waits in the slots from the given one on.
func (f *Fleet) quiet(from int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		for _, fd := range g.fds[min(from, len(g.fds)):] {
			if waiting(fd) > 0 {
				return false
			}
		}
	}
	return true
}
