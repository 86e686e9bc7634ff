package worker

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A worker may die at any point of its start: after it was given everything and
// before it counts as ready; while somebody makes sure that its place is taken
// and finds it taken; as the one that shall try a new configuration because all
// others are down. Each time the place is filled.
func TestAWorkerThatDiesAtAnyPointOfItsStartIsReplaced(t *testing.T) {
	f, addr := started(t)
	replaced := func(when string, pid int) {
		t.Helper()
		until(t, when, func() bool {
			c := f.Crew()
			return c[0].Ready && c[1].Ready && c[0].PID != pid && len(c[0].Slots) == 2
		})
		ask(t, addr)
	}
	seat := func() *member {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.crew.seats[0].member
	}

	victim := seat()
	f.mu.Lock()
	victim.phase = starting
	f.mu.Unlock()
	victim.signal(unix.SIGKILL)
	replaced("one that died before it was enlisted is replaced", victim.pid)

	victim = seat()
	f.fill(f.crew, 0, 0) // the place is taken
	f.fill(f.crew, 0, 0)
	victim.signal(unix.SIGKILL)
	f.fill(f.crew, 0, 0) // perhaps still by who is dead
	replaced("one that died while its place was looked at is replaced", victim.pid)
}

// Of a crew that is down as a whole, one worker is started to try a new
// configuration. It does not keep its place when that is refused.
func TestWhoTriesAConfigurationForADeadCrewLeavesWhenItIsRefused(t *testing.T) {
	f, addr := started(t)
	t.Setenv("LBD_TEST_WORKER", "exit")
	for _, w := range f.Crew() {
		unix.Kill(w.PID, unix.SIGKILL)
	}
	until(t, "nobody is left", func() bool { return len(f.members(f.crew)) == 0 && f.Crew()[0].PID == 0 && f.Crew()[1].PID == 0 })
	t.Setenv("LBD_TEST_WORKER", "refuse")
	u := update(2, documentOn(freePort(t)))
	err := f.Apply(t.Context(), u)
	if !aboutDocument(err) {
		t.Errorf("error %v, want the document's", err)
	}
	t.Setenv("LBD_TEST_WORKER", "")
	until(t, "the crew serves what ran before", func() bool { return f.Crew()[0].Ready && f.Crew()[1].Ready })
	if got := ask(t, addr); got.Generation != 1 {
		t.Errorf("generation %d is served", got.Generation)
	}
}

// Of a worker that panics the panic and the stacks are kept, though nothing is
// written to a disk by who dies and no core is made.
func TestThePanicOfAWorkerIsKeptWithItsStacks(t *testing.T) {
	f, addr := started(t)
	victim := dial(t, addr)
	victim.say("hello")
	pid := victim.hear().PID
	victim.say("panic")
	until(t, "its crash is kept", func() bool { return len(f.Crashes()) == 1 })
	c := f.Crashes()[0]
	if c.PID != pid || !strings.HasPrefix(c.Said, "panic: as it was told") || !strings.Contains(c.Said, "(*echo).talk") || c.How != "exit status 2" {
		t.Errorf("pid %d, %s, said %.300q", c.PID, c.How, c.Said)
	}
	until(t, "another is in its place", func() bool { c := f.Crew(); return c[0].Ready && c[1].Ready && c[0].PID != pid && c[1].PID != pid })
}

// Workers may end between the moment they say who they are and the one they are
// asked what they have. Who is left answers for them; when nobody is, the next
// configuration finds an empty house.
func TestWorkersThatEndWhileTheyAreAdoptedAreReplaced(t *testing.T) {
	for _, victims := range []int{1, 2} {
		t.Run(fmt.Sprint(victims, " of 2"), func(t *testing.T) {
			dir, port := shortDir(t), freePort(t)
			s := startSupervisor(t, dir, documentOn(port))
			before := pids(s.report(t, bothReady).Crew)
			s.cmd.Process.Kill()
			s.cmd.Wait()

			f, err := newFleet(testOptions(dir, testLog()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Shutdown(t.Context()) })
			f.turn <- struct{}{}
			all, err := f.find(t.Context())
			if err != nil || len(all) != 2 {
				t.Fatalf("%d found, %v", len(all), err)
			}
			for _, w := range all[:victims] {
				unix.Kill(w.member.pid, unix.SIGKILL)
			}
			err = f.takeOver(t.Context(), all)
			f.release()
			if err != nil {
				t.Fatal(err)
			}
			f.runAll()
			apply(t, f, update(1, documentOn(port)))
			until(t, "a whole crew serves", func() bool {
				c := f.Crew()
				return len(c) == 2 && c[0].Ready && c[1].Ready && c[0].PID != before[0] && (c[1].PID == before[1]) == (victims == 1)
			})
			ask(t, fmt.Sprintf("127.0.0.1:%d", port))
		})
	}
}

// A worker that ends while a configuration is on its way does not refuse it.
func TestAConfigurationIsNotRefusedByWhoEnds(t *testing.T) {
	f, addr := started(t)
	port := f.Sockets()[0].Bind.Port()
	for n := range uint64(4) {
		c := f.Crew()
		for _, w := range c[:1+n%2] {
			unix.Kill(w.PID, unix.SIGKILL)
		}
		apply(t, f, update(2+n, documentOn(int(port))))
		if got := ask(t, addr); got.Generation != 2+n {
			t.Errorf("generation %d is served, want %d", got.Generation, 2+n)
		}
		until(t, "all are back", func() bool { c := f.Crew(); return c[0].Ready && c[1].Ready })
	}
}
