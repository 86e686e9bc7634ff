package worker

import (
	"context"
	"errors"
	"slices"
)

// runSettle makes the workers accept where assign says they should, whenever
// that may have changed.
func (f *Fleet) runSettle() {
	for {
		select {
		case <-f.poke:
			f.settle()
		case done := <-f.settles:
			f.settle()
			close(done)
		case <-f.ctx.Done():
			return
		}
	}
}

// settleNow returns when the present has been settled.
func (f *Fleet) settleNow(ctx context.Context) {
	done := make(chan struct{})
	select {
	case f.settles <- done:
	case <-ctx.Done():
		wake(f.poke)
		return
	case <-f.ctx.Done():
		return
	}
	select {
	case <-done:
	case <-f.ctx.Done():
	}
}

// order is what one worker is told: all slots it accepts on.
type order struct {
	m         *member
	had, want []grant
}

// settle goes in the order that leaves no queue without somebody who accepts:
// first whoever takes a slot over, then steering, then whoever gives it up.
func (f *Fleet) settle() {
	orders, live := f.orders()
	if !f.obey(orders, func(o order) []grant { return union(o.had, o.want) }) {
		defer wake(f.poke) // somebody did not follow; its pings say what it is worth
	}
	f.steer(live)
	f.obey(orders, func(o order) []grant { return o.want })
}

// orders compares what the workers do with what they should do.
func (f *Fleet) orders() ([]order, []bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crew == nil {
		return nil, nil
	}
	places := make([]place, len(f.crew.seats))
	for i, s := range f.crew.seats {
		places[i] = s.member.place()
	}
	d := assign(f.slots, f.crew.threads, places)
	var orders []order
	for i, s := range f.crew.seats {
		if s.member != nil && s.member.phase == ready && !s.member.mute {
			orders = append(orders, order{s.member, s.member.granted, d.grants[i]})
		}
	}
	for _, m := range f.leaving {
		if !m.mute {
			orders = append(orders, order{m, m.granted, nil})
		}
	}
	return orders, d.live
}

// obey sends each worker the set that pick takes from its order, unless it has
// it. It reports whether all followed.
func (f *Fleet) obey(orders []order, pick func(order) []grant) bool {
	var members []*member
	sets := map[*member][]grant{}
	f.mu.Lock()
	for _, o := range orders {
		set := pick(o)
		if !sameGrants(o.m.granted, set) && !o.m.gone() {
			members = append(members, o.m)
			sets[o.m] = set
		}
	}
	f.mu.Unlock()
	err := each(members, func(m *member) error {
		ctx, cancel := context.WithTimeout(f.ctx, pingTimeout)
		defer cancel()
		_, err := m.conn.call(ctx, opAccept, sets[m], nil, nil)
		var no refusal
		switch {
		case errors.As(err, &no): // asking again would not help
			f.options.Log.Error("a worker does not accept everywhere it should", "worker", m.name(), "err", no)
		case err != nil:
			if !m.gone() {
				f.silent(m, err)
			}
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		m.granted = sets[m]
		return nil
	})
	return err == nil
}

// steer tells the kernel, and whoever watches, which slots take connections.
func (f *Fleet) steer(live []bool) {
	if live == nil {
		return
	}
	f.mu.Lock()
	moved := false
	for _, g := range f.groups {
		// Sockets that are about to close have no slot any more; until they are
		// gone the kernel's hash would find them.
		now := make([]bool, len(g.fds))
		copy(now, live)
		if slices.Equal(g.live, now) {
			continue
		}
		moved = moved || g.live != nil || slices.Contains(now, false)
		if err := g.steer(now); err != nil {
			g.live = now // the datapath may still do it
			f.notes["steer"] = "new connections are not steered away from slots that are down: " + err.Error()
			f.options.Log.Warn("steer", "err", err)
		}
	}
	f.mu.Unlock()
	if moved {
		f.tell(eventOf("slots.change", "crew", ""))
		wake(f.changed)
	}
}

func sameGrants(a, b []grant) bool {
	if len(a) != len(b) {
		return false
	}
	for _, g := range a {
		if !slices.Contains(b, g) {
			return false
		}
	}
	return true
}

// union keeps the thread of a slot that is accepted on already.
func union(had, want []grant) []grant {
	out := slices.Clone(want)
	for _, g := range had {
		if !slices.ContainsFunc(want, func(w grant) bool { return w.Slot == g.Slot }) {
			out = append(out, g)
		}
	}
	return out
}
