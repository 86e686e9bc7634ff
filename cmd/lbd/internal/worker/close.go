package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// A listener that has drained has no sockets: the kernel refuses who comes. Which
// those are is not ours to remember: an Update says which it shall not open, and
// all that follows, replaced workers, upgrades and adoption, goes by the groups
// that there are.

// CloseListener closes the sockets of a listener, here and in every worker, and
// leaves its connections alone. It reports whether there were any.
func (f *Fleet) CloseListener(ctx context.Context, name string) (closed bool, err error) {
	if err := f.take(ctx); err != nil {
		return false, err
	}
	defer f.release()
	f.mu.Lock()
	l := f.listener(name)
	var g *group
	if l != nil {
		g = f.group(l.Bind)
	}
	if g != nil {
		f.dropGroup(g)
	}
	f.mu.Unlock()
	if g == nil {
		return false, nil
	}
	f.closeUnused([]*group{g})
	wake(f.changed)
	return true, nil
}

// OpenListener opens the sockets of a listener that has none. On an error, as
// when somebody else has the port by now, there are none as before.
func (f *Fleet) OpenListener(ctx context.Context, name string) error {
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.release()
	f.mu.Lock()
	l, c, slots := f.listener(name), f.crew, f.slots
	there := l == nil || f.group(l.Bind) != nil
	f.mu.Unlock()
	if there {
		f.admit(ctx, name)
		return nil
	}
	opened, err := f.open([]*lb.Listener{l}, slots)
	if err != nil {
		return err
	}
	f.admit(ctx, name)
	for _, g := range opened {
		if err := g.listen(0); err != nil { // before a worker has it, which would accept at once
			closeGroups(opened)
			return fmt.Errorf("listener %s: %w", name, err)
		}
	}
	f.mu.Lock()
	f.groups = append(f.groups, opened...)
	f.mu.Unlock()
	_ = each(f.members(c), func(m *member) error {
		if err := m.conn.hold(ctx, opened); err != nil {
			f.options.Log.Error("a worker did not take sockets and is replaced", "worker", m.name(), "err", err)
			m.signal(unix.SIGKILL)
		}
		return nil
	})
	f.settleNow(ctx)
	wake(f.changed)
	return nil
}

// admitTime bounds how long workers may take to hear that a listener drains no more.
const admitTime = time.Second

// admit has the workers turn nobody away any more who comes to a listener.
func (f *Fleet) admit(ctx context.Context, name string) {
	f.mu.Lock()
	s := f.state
	_, drains := s.Listeners[name]
	f.mu.Unlock()
	if !drains {
		return
	}
	s.Listeners = maps.Clone(s.Listeners)
	delete(s.Listeners, name)
	f.SetState(s)
	ctx, cancel := context.WithTimeout(ctx, admitTime)
	defer cancel()
	for ctx.Err() == nil && !f.heard() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// heard reports whether all workers that serve have the state.
func (f *Fleet) heard() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crew == nil || !slices.ContainsFunc(f.crew.seats, func(s *chair) bool {
		return s.member != nil && s.member.phase == ready && !s.member.mute && s.member.state != f.stateVersion
	})
}

// listener finds one of the configuration that is served; call it with mu held.
func (f *Fleet) listener(name string) *lb.Listener {
	if f.update == nil || f.update.Config == nil {
		return nil
	}
	return f.update.Config.Listener(name)
}
