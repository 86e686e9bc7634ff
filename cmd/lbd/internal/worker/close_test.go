package worker

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

// A listener that has drained has no sockets: who comes is refused, who is there
// stays. Reloads, replaced workers, upgrades and other supervisors leave it so.
func TestAClosedListenerStaysClosedUntilItIsOpened(t *testing.T) {
	ports := []int{freePort(t), freePort(t)}
	dir := shortDir(t)
	f := openFleet(t, dir)
	apply(t, f, update(1, documentOn(ports...)))
	addr, other := f.Sockets()[0].Bind.String(), f.Sockets()[1].Bind.String()
	held := dial(t, addr)
	held.say("hold")
	first := held.hear()

	closes := func(want bool) {
		t.Helper()
		if closed, err := f.CloseListener(t.Context(), "a"); err != nil || closed != want {
			t.Fatalf("closed %v, %v", closed, err)
		}
	}
	refused := func(when string) {
		t.Helper()
		until(t, when+": who comes is refused", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
		if ask(t, other).Listener != "b" {
			t.Errorf("%s: the other listener does not serve", when)
		}
	}
	drained := func(generation uint64) Update {
		u := update(generation, documentOn(ports...))
		u.Drained = []string{"a"}
		return u
	}
	closes(true)
	closes(false)
	refused("closed")
	held.say("hold")
	if got := held.hear(); got.PID != first.PID {
		t.Errorf("pid %d answers who was there, want %d", got.PID, first.PID)
	}

	apply(t, f, drained(2))
	refused("reloaded")
	for _, w := range f.Crew() {
		if w.PID != first.PID {
			syscall.Kill(w.PID, syscall.SIGKILL)
			until(t, "it is replaced", func() bool { now := f.Crew()[w.Index]; return now.PID != w.PID && now.Ready })
		}
	}
	refused("a worker was replaced")
	if err := f.Upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	refused("upgraded")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	refused("without a supervisor")
	f = openFleet(t, dir)
	apply(t, f, drained(2))
	refused("another supervisor came")

	if err := f.OpenListener(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // twice is once
		if err := f.OpenListener(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	workers := map[int]bool{}
	until(t, "all workers serve it", func() bool { workers[ask(t, addr).PID] = true; return len(workers) == 2 })
	apply(t, f, drained(3)) // what is open stays
	ask(t, addr)

	closes(true)
	thief, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	if err := f.OpenListener(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("somebody else has the port, and it says %v", err)
	}
	thief.Close()
	if err := f.OpenListener(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	ask(t, addr)
}

// Of a configuration that begins with drained listeners those are never opened.
func TestADrainedListenerIsNotOpenedAtAStart(t *testing.T) {
	ports := []int{freePort(t), freePort(t)}
	f := openFleet(t, shortDir(t))
	u := update(1, documentOn(ports...))
	u.Drained = []string{"a"}
	apply(t, f, u)
	if got := f.Sockets(); len(got) != 1 || int(got[0].Bind.Port()) != ports[1] {
		t.Errorf("sockets %v", got)
	}
}
