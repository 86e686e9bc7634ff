package worker

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// How workers are watched. A worker that does not answer for a second is
// stuck: others accept in its place. One that stays so is killed and replaced.
const (
	pingInterval  = 500 * time.Millisecond
	pingTimeout   = time.Second
	threadTimeout = 1500 * time.Millisecond // a loop turns at least twice a second when idle
	stuckTimeout  = 30 * time.Second
	statsInterval = 2 * time.Second
)

// How a place whose worker died gets another: at once when it had lived, later
// and later while starts fail.
const (
	firstDelay  = 100 * time.Millisecond
	maxDelay    = 10 * time.Second
	goodHealth  = 10 * time.Second // a life that makes earlier failures forgotten
	farewellFor = time.Second      // what a dead worker said last is still read
)

// runWatch waits for the end of one process.
func (f *Fleet) runWatch(m *member) {
	m.exit = m.wait()
	if m.early != nil {
		m.last = said(m.early)
	}
	defer close(m.buried)
	close(m.exited)
	wake(f.poke)
	if f.ctx.Err() == nil {
		f.bury(m)
	}
}

// bury takes a process that is gone out of everything.
func (f *Fleet) bury(m *member) {
	f.lastWords(m)
	f.mu.Lock()
	retireInto(&f.retired, m.stats)
	f.leaving = slices.DeleteFunc(f.leaving, func(o *member) bool { return o == m })
	var vacant *chair
	if s := m.crew.seats[m.index]; s.member == m {
		s.member = nil
		s.detail = "its process ended: " + m.exit
		vacant = s
	}
	wanted := vacant != nil && f.crew == m.crew && !f.closed
	served := m.phase != starting // else who started it says how that failed
	f.mu.Unlock()

	if m.early != nil {
		m.early.Close()
	}
	how := m.exit
	if served && (wanted || m.lastWords() != "") {
		how = f.report(m)
	}
	f.mu.Lock()
	m.closeFlight()
	f.mu.Unlock()
	if m.pidfd != nil {
		m.pidfd.Close()
	}
	_ = os.Remove(m.socket)
	f.saveStats()
	wake(f.changed)
	f.event("worker.exit", m, how)
	if !wanted {
		return
	}
	if served {
		f.mu.Lock()
		vacant.detail = "its process ended: " + how
		f.mu.Unlock()
		f.options.Log.Error("a worker ended", "worker", m.name(), "pid", m.pid, "how", how)
		f.run(func() { f.moveAgain() })
	}
	f.fill(m.crew, m.index, time.Since(m.started))
}

// lastWords lets the connection's reader take what the worker sent before it
// ended.
func (f *Fleet) lastWords(m *member) {
	f.mu.Lock()
	c := m.conn
	f.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case <-c.ended:
	case <-time.After(farewellFor):
		c.close()
	}
}

// farewell takes the totals that a worker sends before it exits.
func (f *Fleet) farewell(m *member, msg message) {
	var s lb.Stats
	if msg.Op != opBye || json.Unmarshal(msg.Body, &s) != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.stats = s
}

// fill sees to it that somebody comes to a place of a crew. Whoever finds one
// empty may say so, and more than once.
func (f *Fleet) fill(c *crew, index int, lived time.Duration) {
	f.mu.Lock()
	s := c.seats[index]
	if lived > goodHealth {
		s.delay = 0
	}
	called := s.called
	s.called = true
	f.mu.Unlock()
	if !called {
		f.run(func() { f.runRestart(c, index) })
	}
}

// runRestart gives a place another worker, with growing delays while that
// fails. It ends when the place is taken or the crew is no longer wanted: whom
// it called may die at any moment, so it looks again before it goes.
func (f *Fleet) runRestart(c *crew, index int) {
	f.mu.Lock()
	s := c.seats[index]
	f.mu.Unlock()
	for {
		f.mu.Lock()
		delay := s.delay
		s.delay = min(max(2*s.delay, firstDelay), maxDelay)
		f.mu.Unlock()
		select {
		case <-time.After(delay):
		case <-f.ctx.Done():
			return
		}
		err := f.restart(c, index)
		f.mu.Lock()
		if err != nil {
			s.detail = err.Error()
		}
		empty := s.vacant() && f.crew == c && !f.closed
		s.called = empty
		f.mu.Unlock()
		if err != nil {
			f.options.Log.Error("a worker did not start", "crew", c.number, "index", index, "err", err)
			wake(f.changed)
		}
		if !empty {
			return // whose end clears the place calls again
		}
	}
}

// restart makes one attempt, if one is wanted.
func (f *Fleet) restart(c *crew, index int) error {
	if f.take(f.ctx) != nil {
		return nil // the end of all
	}
	defer f.release()
	f.mu.Lock()
	s := c.seats[index]
	wanted := f.crew == c && s.vacant()
	groups, u := slices.Clone(f.groups), f.update
	f.mu.Unlock()
	if !wanted || u == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(f.ctx, f.options.ReadyTimeout)
	defer cancel()
	m, err := f.launch(ctx, c, index)
	if err != nil {
		return err
	}
	if err := f.equip(ctx, m, groups, u); err != nil {
		err = m.failedStart(err)
		m.signal(unix.SIGKILL)
		return err
	}
	f.mu.Lock()
	s.restarts++
	f.mu.Unlock()
	f.enlist(f.ctx, m, u.Generation)
	wake(f.poke)
	f.moveAgain()
	return nil
}

// runPing asks a worker for a sign of life until it is gone.
func (f *Fleet) runPing(m *member) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	var pulled time.Time
	for {
		select {
		case <-tick.C:
		case <-m.exited:
			return
		case <-f.ctx.Done():
			return
		}
		f.ping(m)
		if time.Since(pulled) > statsInterval || f.leaves(m) {
			pulled = time.Now()
			f.pull(m)
		}
	}
}

// leaves: how a drain comes on is asked for often.
func (f *Fleet) leaves(m *member) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return m.phase == draining
}

func (f *Fleet) ping(m *member) {
	ctx, cancel := context.WithTimeout(f.ctx, pingTimeout)
	defer cancel()
	var p pong
	_, err := m.conn.call(ctx, opPing, nil, nil, &p)
	if f.ctx.Err() != nil || m.gone() {
		return
	}
	if err != nil {
		f.silent(m, err)
		return
	}
	stuck := make([]bool, len(p.Beats))
	for i, ms := range p.Beats {
		stuck[i] = time.Duration(ms)*time.Millisecond > threadTimeout
	}
	f.alive(m, stuck)
}

// alive notes a pong; a change of what the worker can do is settled at once.
func (f *Fleet) alive(m *member, stuck []bool) {
	f.mu.Lock()
	was := m.mute || slices.Contains(m.stuck, true)
	same := !m.mute && equalStuck(m.stuck, stuck)
	m.heard, m.mute, m.stuck = time.Now(), false, stuck
	behind := m.state != f.stateVersion
	f.mu.Unlock()
	if behind {
		wake(f.push)
	}
	if same {
		return
	}
	switch {
	case !slices.Contains(stuck, true) && was:
		f.event("worker.recover", m, "")
	case slices.Contains(stuck, true):
		f.options.Log.Error("threads of a worker do not turn; others accept in their place", "worker", m.name(), "pid", m.pid)
		f.event("worker.stuck", m, "a thread does not turn")
	}
	wake(f.poke)
}

// equalStuck: a thread that is not listed turns.
func equalStuck(a, b []bool) bool {
	for i := range max(len(a), len(b)) {
		if (i < len(a) && a[i]) != (i < len(b) && b[i]) {
			return false
		}
	}
	return true
}

// silent notes that a worker did not answer. When it is we who end, that is no
// fault of its: it serves on.
func (f *Fleet) silent(m *member, err error) {
	if f.ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	first := !m.mute
	m.mute = true
	since := time.Since(m.heard)
	leaving := m.phase == draining
	f.mu.Unlock()
	if first && !leaving {
		f.options.Log.Error("a worker does not answer; others accept in its place", "worker", m.name(), "pid", m.pid, "err", err)
		f.event("worker.stuck", m, err.Error())
		wake(f.poke)
	}
	if m.conn.over() && !leaving {
		f.discard(m)
		return
	}
	if since > stuckTimeout && !leaving {
		f.options.Log.Error("a worker is stuck and killed", "worker", m.name(), "pid", m.pid, "silent", since)
		m.signal(unix.SIGKILL)
	}
}

// discard lets a worker that lives but is lost to us finish what it has, and
// gives its place to another. It needs no connection to be told.
func (f *Fleet) discard(m *member) {
	f.options.Log.Error("the connection to a worker broke; it drains and is replaced", "worker", m.name(), "pid", m.pid)
	m.signal(unix.SIGTERM)
	f.mu.Lock()
	m.phase, m.granted, m.detail = draining, nil, "its control connection broke"
	vacant := m.crew.seats[m.index].member == m
	if vacant {
		m.crew.seats[m.index].member = nil
		f.leaving = append(f.leaving, m)
	}
	f.mu.Unlock()
	if vacant {
		f.fill(m.crew, m.index, time.Since(m.started))
		f.run(func() { f.runEnd(m, f.drainTimeout()) })
	}
}

func (f *Fleet) pull(m *member) {
	var s lb.Stats
	if _, err := m.conn.quick(f.ctx, opStats, nil, nil, &s); err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.stats = s
}

// SetState gives health and the operators' overlay to all workers, now and to
// those that start later. It does not wait.
func (f *Fleet) SetState(s lb.State) {
	f.mu.Lock()
	f.state = s
	f.stateVersion++
	f.mu.Unlock()
	wake(f.push)
}

// runState sends the state to whoever does not have it. Who fails now is asked
// again after its next pong.
func (f *Fleet) runState() {
	for {
		select {
		case <-f.push:
		case <-f.ctx.Done():
			return
		}
		f.mu.Lock()
		state, version := f.state, f.stateVersion
		f.mu.Unlock()
		_ = each(f.everybody(), func(m *member) error { return f.sendState(m, state, version) })
	}
}

func (f *Fleet) sendState(m *member, state lb.State, version uint64) error {
	f.mu.Lock()
	has, able := m.state == version, m.phase != starting && !m.mute
	f.mu.Unlock()
	if has || !able {
		return nil
	}
	if _, err := m.conn.quick(f.ctx, opState, state, nil, nil); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.state = version
	return nil
}
