package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// What adopted workers give back: the configuration and the listening sockets. Each
// of them has both, so whoever answers will do.

// documentOf asks the worker that is furthest: what one has committed was
// persisted before. When that one does not answer another does; errGone: all of
// them have ended.
func (f *Fleet) documentOf(ctx context.Context, current []found) (*Update, error) {
	order := slices.Clone(current)
	slices.SortStableFunc(order, func(a, b found) int { return cmp.Compare(b.hello.Generation, a.hello.Generation) })
	for tries := 0; ; tries++ {
		var errs []error
		for _, w := range order {
			u, err := f.askDocument(ctx, w.member)
			if err == nil {
				return u, nil
			}
			errs = append(errs, fmt.Errorf("ask worker pid %d for its configuration: %w", w.member.pid, err))
		}
		if allGone(order) {
			return nil, errGone
		}
		if tries == askTries || ctx.Err() != nil {
			return nil, errors.Join(errs...)
		}
		time.Sleep(reachTick)
	}
}

// askTries is how often workers that live and do not answer are asked again.
const askTries = 5

// allGone: a process may end a moment after its connection.
func allGone(all []found) bool {
	for _, w := range all {
		select {
		case <-w.member.exited:
		case <-time.After(reachTick):
			return false
		}
	}
	return true
}

func (f *Fleet) askDocument(ctx context.Context, m *member) (*Update, error) {
	var d document
	var files map[string][]byte
	fds, err := m.conn.quick(ctx, opDocument, nil, nil, &d)
	if err == nil {
		files, err = d.unpack(fds)
	}
	if err != nil {
		return nil, err
	}
	u := &Update{Generation: d.Generation, File: d.File, Document: d.Text, Files: files}
	if err := u.pack(); err != nil {
		return nil, err
	}
	c, err := f.options.Parse(d.File, d.Text)
	if err != nil {
		f.note("adopted", fmt.Sprintf("adopted workers serve a configuration (generation %d) that this lbd does not accept", d.Generation))
		return u, nil
	}
	u.Config = c
	f.user = c.Workers.User
	return u, nil
}

// socketsOf gets the listening sockets back. Every worker holds all of them,
// unless its supervisor died while it handed them out; so one that answers is
// enough, and errGone: all have ended.
func (f *Fleet) socketsOf(ctx context.Context, current []found) error {
	have := map[netip.AddrPort]map[int]int{}
	var errs []error
	for _, w := range current {
		held, err := w.member.conn.takeBack(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("worker pid %d: %w", w.member.pid, err))
			continue
		}
		for name, fd := range held {
			if have[name.Bind] == nil {
				have[name.Bind] = map[int]int{}
			}
			if _, twice := have[name.Bind][name.Slot]; twice || !listens(fd) {
				unix.Close(fd)
				continue
			}
			have[name.Bind][name.Slot] = fd
		}
	}
	if len(errs) == len(current) {
		if allGone(current) {
			return errGone
		}
		return errors.Join(errs...)
	}
	for bind, fds := range have {
		g, err := regroup(bind, fds, f.slots)
		if err != nil {
			return err
		}
		f.groups = append(f.groups, g)
	}
	slices.SortFunc(f.groups, func(a, b *group) int { return a.name.Compare(b.name) })
	if f.update.Config != nil {
		f.closeUnused(f.unused(f.update.Config))
	}
	return nil
}

func listens(fd int) bool {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && on == 1
}

// regroup makes a group of sockets that came back. A slot that is missing gets
// a new socket; one too many is from a larger crew and is let go.
func regroup(name netip.AddrPort, fds map[int]int, slots int) (*group, error) {
	g := &group{name: name, actual: name}
	for _, fd := range fds {
		if a, err := localAddr(fd); err == nil {
			g.actual = a
		}
	}
	for slot := range slots {
		fd, ok := fds[slot]
		if !ok {
			var err error
			if fd, err = bindSocket(g.actual, true); err == nil {
				err = unix.Listen(fd, backlog)
			}
			if err != nil {
				return nil, ExplainBind(g.actual, err)
			}
		}
		delete(fds, slot)
		g.fds = append(g.fds, fd)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return g, nil
}
