package worker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// Apply makes every worker serve the update, or none: sockets are bound, every
// worker builds it, Persist is called, every worker switches. The first Apply
// starts the workers. An error leaves what ran untouched.
func (f *Fleet) Apply(ctx context.Context, u Update) error {
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.release()
	if err := u.pack(); err != nil {
		return err
	}
	undo, err := f.adjust(u.Config)
	if err != nil {
		return err
	}
	f.note("files", filesNote(u.Config.Limits.Connections))
	f.mu.Lock()
	first := f.crew == nil
	f.mu.Unlock()
	if first {
		err = f.applyFirst(ctx, u)
	} else {
		err = f.applyNext(ctx, u)
	}
	if err != nil {
		undo()
	}
	return err
}

// adjust takes over the settings that matter to workers which start from now
// on; undo restores them.
func (f *Fleet) adjust(c *lb.Config) (undo func(), err error) {
	restore, err := f.openAccess(c.Log.Access)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	user := f.user
	f.user = c.Workers.User
	return func() {
		restore()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.user = user
	}, nil
}

// applyFirst starts the first crew.
func (f *Fleet) applyFirst(ctx context.Context, u Update) error {
	_ = os.Remove(f.drainsPath()) // of an earlier crew with this number
	c, err := newCrew(f.nextCrew(), f.options.Binary, u.Config.Workers)
	if err != nil {
		return err
	}
	opened, err := f.open(u.listeners(), c.slots())
	if err != nil {
		c.binary.Close()
		return err
	}
	ready, cancel := context.WithTimeout(ctx, f.options.ReadyTimeout)
	defer cancel()
	err = f.start(ready, c, func(m *member) error {
		if err := m.conn.hold(ready, opened); err != nil {
			return err
		}
		return u.prepare(ready, m)
	})
	if err == nil {
		if err = f.seal(opened, u); err != nil {
			f.dismiss(c)
		}
	}
	if err != nil {
		closeGroups(opened)
		return err
	}
	f.mu.Lock()
	f.crew, f.slots = c, c.slots()
	f.mu.Unlock()
	f.switchTo(ctx, u, opened)
	return nil
}

// applyNext gives a running crew another configuration.
func (f *Fleet) applyNext(ctx context.Context, u Update) error {
	f.mu.Lock()
	c, slots := f.crew, f.slots
	f.mu.Unlock()
	opened, err := f.open(u.listeners(), slots)
	if err != nil {
		return err
	}
	if err := f.prepareAll(ctx, c, opened, u); err != nil {
		f.abort(c, opened)
		return err
	}
	if err := f.seal(opened, u); err != nil {
		f.abort(c, opened)
		return err
	}
	f.switchTo(ctx, u, opened)
	f.noteWorkers(u.Config)
	if err := f.sendLogs(); err != nil {
		f.options.Log.Warn("hand the logs to the workers", "err", err)
	}
	return nil
}

// listeners are those whose sockets there shall be.
func (u Update) listeners() []*lb.Listener {
	return slices.DeleteFunc(slices.Clone(u.Config.Listeners), func(l *lb.Listener) bool { return slices.Contains(u.Drained, l.Name) })
}

// open binds what listeners listen on and we do not yet.
func (f *Fleet) open(listeners []*lb.Listener, slots int) ([]*group, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ours := map[uint64]bool{}
	for _, g := range f.groups {
		for _, fd := range g.fds {
			ours[inode(fd)] = true
		}
	}
	var opened []*group
	var errs []error
	for _, l := range listeners {
		if f.group(l.Bind) != nil || slices.ContainsFunc(opened, func(g *group) bool { return g.name == l.Bind }) {
			continue
		}
		g, err := openGroup(l.Bind, slots, ours)
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Name, err))
			continue
		}
		opened = append(opened, g)
		for _, fd := range g.fds {
			ours[inode(fd)] = true
		}
	}
	if err := errors.Join(errs...); err != nil {
		closeGroups(opened)
		return nil, err
	}
	return opened, nil
}

func closeGroups(groups []*group) {
	for _, g := range groups {
		g.close()
	}
}

// prepareAll has every worker of the crew build u. One that ends meanwhile was
// perhaps not ended by u, so those that are left are asked once more.
func (f *Fleet) prepareAll(ctx context.Context, c *crew, opened []*group, u Update) error {
	for again := false; ; again = true {
		members := slices.DeleteFunc(f.members(c), broken)
		if len(members) == 0 {
			return f.revive(ctx, c, opened, u)
		}
		err := each(members, func(m *member) error {
			if err := m.conn.hold(ctx, opened); err != nil {
				return fmt.Errorf("worker %s (pid %d): %w", m.name(), m.pid, err)
			}
			err := u.prepare(ctx, m)
			if err == nil || aboutDocument(err) {
				return err
			}
			return fmt.Errorf("worker %s (pid %d) refuses the configuration: %w", m.name(), m.pid, err)
		})
		if err == nil || aboutDocument(err) || again || !slices.ContainsFunc(members, broken) {
			return err
		}
	}
}

// broken: it has ended, or is about to be replaced.
func broken(m *member) bool { return m.conn.failure() != nil }

// prepare has one worker build the update, and tells what it answered.
func (u Update) prepare(ctx context.Context, m *member) error {
	began := time.Now()
	err := m.conn.prepare(ctx, u.packed)
	if u.Built != nil {
		u.Built(m.name(), m.pid, time.Since(began), err)
	}
	return err
}

// revive starts the workers of a crew that is down as a whole, perhaps because
// of the configuration that ran: only a worker can say that the new one works.
func (f *Fleet) revive(ctx context.Context, c *crew, opened []*group, u Update) error {
	f.mu.Lock()
	groups := append(slices.Clone(f.groups), opened...)
	f.mu.Unlock()
	ready, cancel := context.WithTimeout(ctx, f.options.ReadyTimeout)
	defer cancel()
	m, err := f.launch(ready, c, 0)
	if err != nil {
		return err
	}
	if err = m.conn.hold(ready, groups); err == nil {
		err = u.prepare(ready, m)
	}
	if err == nil {
		return nil
	}
	if !aboutDocument(err) {
		err = m.failedStart(err)
	}
	m.signal(unix.SIGKILL) // its place is for one that serves what ran
	return err
}

// each runs what for all members at once and returns the first error that
// says most.
func each(members []*member, what func(*member) error) error {
	var all sync.WaitGroup
	errs := make([]error, len(members))
	for i, m := range members {
		all.Go(func() { errs[i] = what(m) })
	}
	all.Wait()
	return firstOf(errs)
}

// seal is the last step that can fail.
func (f *Fleet) seal(opened []*group, u Update) error {
	for _, g := range opened {
		if err := g.listen(0); err != nil {
			return err
		}
	}
	if u.Persist != nil {
		return u.Persist()
	}
	return nil
}

// abort makes the crew forget what it built.
func (f *Fleet) abort(c *crew, opened []*group) {
	names, _ := sockets(opened)
	_ = each(f.members(c), func(m *member) error {
		_, _ = m.conn.quick(f.ctx, opAbort, nil, nil, nil) // it forgets at the next prepare, too
		if len(names) > 0 {
			_ = m.conn.letGo(f.ctx, names)
		}
		return nil
	})
	closeGroups(opened)
}

// switchTo commits: from here there is no way back. A worker that does not
// follow is replaced by one that does.
func (f *Fleet) switchTo(ctx context.Context, u Update, opened []*group) {
	f.mu.Lock()
	c := f.crew
	f.groups = append(f.groups, opened...)
	f.update = &u
	closed := f.unused(u.Config)
	f.mu.Unlock()

	_ = each(f.members(c), func(m *member) error {
		if err := m.conn.commit(f.ctx, u.Generation); err != nil {
			f.options.Log.Error("a worker did not switch and is replaced", "worker", m.name(), "generation", u.Generation, "err", err)
			m.signal(unix.SIGKILL)
			return nil
		}
		f.committed(m, u.Generation)
		return nil
	})
	f.closeUnused(closed)
	f.settleNow(ctx)
	f.staff(c)
	wake(f.changed)
}

func (f *Fleet) committed(m *member, generation uint64) {
	f.mu.Lock()
	m.generation = generation
	fresh := m.phase == starting
	f.mu.Unlock()
	if fresh {
		f.enlist(f.ctx, m, generation)
	}
}

// unused takes the groups that nothing listens on any more out of the list;
// call it with mu held.
func (f *Fleet) unused(c *lb.Config) []*group {
	used := map[netip.AddrPort]bool{}
	for _, b := range binds(c) {
		used[b] = true
	}
	var closed []*group
	f.groups = slices.DeleteFunc(f.groups, func(g *group) bool {
		if !used[g.name] {
			closed = append(closed, g)
			return true
		}
		return false
	})
	return closed
}

// closeUnused closes sockets everywhere; the kernel's socket ends with its last
// duplicate.
func (f *Fleet) closeUnused(closed []*group) {
	names, _ := sockets(closed)
	if len(names) == 0 {
		return
	}
	for len(names) > 0 {
		n := min(len(names), 1000)
		_ = each(f.everybody(), func(m *member) error { return m.conn.letGo(f.ctx, names[:n]) })
		names = names[n:]
	}
	closeGroups(closed)
}

// everybody lists all connected workers, draining ones included.
func (f *Fleet) everybody() []*member {
	f.mu.Lock()
	c := f.crew
	f.mu.Unlock()
	out := f.members(c)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.leaving {
		if m.conn != nil {
			out = append(out, m)
		}
	}
	return out
}

// noteWorkers says when the crew is not what the configuration asks for.
func (f *Fleet) noteWorkers(c *lb.Config) {
	f.mu.Lock()
	processes, have := f.crew.processes, f.crew.threads
	f.mu.Unlock()
	want := max(1, c.Workers.Processes)
	if t := threads(c.Workers.Threads, want); want != processes || t != have {
		f.note("workers", fmt.Sprintf("workers: %d processes of %d threads run; the configured %d of %d take effect with lbctl upgrade",
			processes, have, want, t))
		return
	}
	f.note("workers", "")
}
