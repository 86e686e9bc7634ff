package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// A worker that an operator drains gives its slots to the others, its live
// connections too where they can move, finishes what it has and ends; its place
// stays empty. The order is of a place in a crew: it lives until it is taken back,
// or until another crew takes over, over deaths of supervisors too.

// Errors of orders for workers.
var (
	ErrNoWorker   = errors.New("no such worker")
	ErrLastWorker = errors.New("no other worker serves")
)

// drained is the file that keeps the orders.
type drained struct {
	Crew   int               `json:"crew"`
	Places map[int]time.Time `json:"places"` // since when
}

// OrderWorker drains a worker of the crew that serves, by its name, or takes
// that back. It returns when the others serve in its place, and does not wait
// for the worker's end.
func (f *Fleet) OrderWorker(ctx context.Context, name string, drain bool) error {
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.release()
	f.mu.Lock()
	c := f.crew
	index := c.place(name)
	f.mu.Unlock()
	if index < 0 {
		return ErrNoWorker
	}
	if drain {
		return f.drainWorker(ctx, c, index)
	}
	return f.undrainWorker(c, index)
}

// place is the number of the place with a name; -1: there is none.
func (c *crew) place(name string) int {
	if c == nil {
		return -1
	}
	for i := range c.seats {
		if placeName(c, i) == name {
			return i
		}
	}
	return -1
}

func placeName(c *crew, index int) string { return fmt.Sprintf("%d.%d", c.number, index) }

func (f *Fleet) drainWorker(ctx context.Context, c *crew, index int) error {
	f.mu.Lock()
	places := c.drains()
	_, already := places[index]
	others := slices.ContainsFunc(c.seats, func(s *chair) bool { return s != c.seats[index] && s.member.place().ready })
	f.mu.Unlock()
	if already {
		return nil
	}
	if !others {
		return ErrLastWorker
	}
	places[index] = time.Now()
	if err := f.keepDrains(c, places); err != nil {
		return err
	}
	f.mu.Lock()
	s := c.seats[index]
	s.drained = places[index]
	m := s.member
	var leaving []*member
	if m != nil {
		m.phase, s.member = draining, nil
		leaving = []*member{m}
		f.leaving = append(f.leaving, m)
	}
	f.mu.Unlock()
	f.noteDrains(c)
	f.settleNow(ctx) // the others accept on its slots, connections are steered to them, it stops
	f.move(leaving, f.members(c))
	timeout := f.drainTimeout()
	f.drain(leaving, timeout)
	if m != nil {
		f.run(func() { f.runDrained(m, timeout) })
	}
	wake(f.changed)
	return nil
}

func (f *Fleet) undrainWorker(c *crew, index int) error {
	f.mu.Lock()
	places := c.drains()
	_, is := places[index]
	f.mu.Unlock()
	if !is {
		return nil
	}
	delete(places, index)
	if err := f.keepDrains(c, places); err != nil {
		return err
	}
	f.mu.Lock()
	c.seats[index].drained = time.Time{}
	f.mu.Unlock()
	f.noteDrains(c)
	f.fill(c, index, goodHealth+1)
	wake(f.changed)
	return nil
}

// runDrained tells how a drain ends.
func (f *Fleet) runDrained(m *member, timeout time.Duration) {
	subject := fmt.Sprintf("worker %s (pid %d)", m.name(), m.pid)
	select {
	case <-m.buried:
	case <-time.After(timeout):
		f.tell(eventOf("worker.drain-overdue", subject, fmt.Sprintf("after %v; what is left is closed", timeout)))
		select {
		case <-m.buried:
		case <-f.ctx.Done():
			return
		}
	case <-f.ctx.Done():
		return
	}
	f.tell(eventOf("worker.empty", subject, ""))
}

// drains are the places of a crew that are to stay empty, and since when. Call it
// with Fleet.mu held.
func (c *crew) drains() map[int]time.Time {
	out := map[int]time.Time{}
	for i, s := range c.seats {
		if !s.drained.IsZero() {
			out[i] = s.drained
		}
	}
	return out
}

func (f *Fleet) drainsPath() string { return filepath.Join(f.options.RunDir, "drained.json") }

// keepDrains writes the orders down, for the next supervisor.
func (f *Fleet) keepDrains(c *crew, places map[int]time.Time) error {
	text, err := json.Marshal(drained{c.number, places})
	if err == nil {
		err = renameio.WriteFile(f.drainsPath(), text, 0o600, renameio.WithTempDir(f.options.RunDir))
	}
	if err != nil {
		return fmt.Errorf("keep the order: %w", err)
	}
	return nil
}

// recallDrains has the places of an adopted crew stay empty that were to.
func (f *Fleet) recallDrains(c *crew) {
	var d drained
	text, err := os.ReadFile(f.drainsPath())
	if err != nil || json.Unmarshal(text, &d) != nil || d.Crew != c.number {
		return
	}
	f.mu.Lock()
	for i, s := range c.seats {
		if since, ok := d.Places[i]; ok && s.member == nil {
			s.drained = since
		}
	}
	f.mu.Unlock()
	f.noteDrains(c)
}

func (f *Fleet) noteDrains(c *crew) {
	f.mu.Lock()
	var names []string
	for _, i := range slices.Sorted(maps.Keys(c.drains())) {
		names = append(names, placeName(c, i))
	}
	f.mu.Unlock()
	if names == nil {
		f.note("drained", "")
		return
	}
	f.note("drained", "an operator drains workers: "+strings.Join(names, ", ")+"; `lbctl worker undrain` takes it back, an upgrade too")
}
