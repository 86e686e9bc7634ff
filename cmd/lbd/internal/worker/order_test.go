package worker

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// A worker that is drained gets no new connections, finishes what it has and
// ends; the others accept on its slots. Its place stays empty, over a supervisor's
// end too, until the order is taken back.
func TestADrainedWorkersPlaceStaysEmptyUntilItIsUndrained(t *testing.T) {
	port := freePort(t)
	dir := shortDir(t)
	f := openFleet(t, dir)
	apply(t, f, update(1, documentOn(port)))
	addr := f.Sockets()[0].Bind.String()

	held := dial(t, addr)
	held.say("hold")
	name := held.hear().Worker
	place := f.crew.place(name)
	other := f.Crew()[1-place]
	only := func(when string) {
		t.Helper()
		for range 30 {
			if got := ask(t, addr); got.PID != other.PID {
				t.Fatalf("%s: pid %d took a new connection, want %d", when, got.PID, other.PID)
			}
		}
	}
	state := func(f *Fleet) (all []string) {
		for _, w := range f.Crew() {
			all = append(all, w.State)
		}
		return all
	}

	if err := f.OrderWorker(t.Context(), "7.7", true); !errors.Is(err, ErrNoWorker) {
		t.Errorf("error %v, want %v", err, ErrNoWorker)
	}
	for range 2 { // twice is once
		if err := f.OrderWorker(t.Context(), name, true); err != nil {
			t.Fatal(err)
		}
	}
	only("it drains")
	held.say("hold")
	if got := held.hear(); got.Worker != name {
		t.Errorf("worker %s answers in the middle of what %s had", got.Worker, name)
	}
	if got := state(f); !slices.Contains(got, "draining") || len(got) != 2 {
		t.Errorf("states %v", got)
	}
	if err := f.OrderWorker(t.Context(), placeName(f.crew, 1-place), true); !errors.Is(err, ErrLastWorker) {
		t.Errorf("error %v, want %v", err, ErrLastWorker)
	}
	held.conn.Close()
	until(t, "it has ended", func() bool { return state(f)[place] == "drained" })
	only("it has ended")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	f = openFleet(t, dir)
	apply(t, f, update(1, documentOn(port)))
	only("another supervisor came")
	if got := f.Crew()[place]; got.State != "drained" || !strings.Contains(strings.Join(f.Notes(), "\n"), "drains workers: "+name) {
		t.Errorf("%s %s, notes %q", name, got.State, f.Notes())
	}
	if err := f.OrderWorker(t.Context(), name, false); err != nil {
		t.Fatal(err)
	}
	until(t, "both serve", func() bool {
		return slices.Equal(state(f), []string{"ready", "ready"}) && len(f.Crew()[place].Slots) == 2
	})

	if err := f.OrderWorker(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	if err := f.Upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	until(t, "another crew is whole", func() bool { return slices.Equal(state(f), []string{"ready", "ready"}) })
	if notes := f.Notes(); strings.Contains(strings.Join(notes, "\n"), "drains workers") {
		t.Errorf("notes %q", notes)
	}
}

// What is left when a drain's time is over is closed, and told.
func TestADrainThatTakesTooLongIsToldAndEnds(t *testing.T) {
	f := openFleet(t, shortDir(t))
	port := freePort(t)
	apply(t, f, update(1, strings.Replace(documentOn(port), "listeners:", "drain: { timeout: 1s }\nlisteners:", 1)))
	held := dial(t, f.Sockets()[0].Bind.String())
	held.say("hold")
	name := held.hear().Worker
	if err := f.OrderWorker(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	var told []string
	until(t, "it is told and over", func() bool {
		select {
		case e := <-f.Events():
			if strings.HasPrefix(e.Subject, "worker "+name) {
				told = append(told, e.Kind)
			}
		default:
		}
		return slices.Contains(told, "worker.empty")
	})
	if !slices.Contains(told, "worker.drain-overdue") {
		t.Errorf("told %v", told)
	}
}
