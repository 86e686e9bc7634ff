package worker

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

func TestEveryWorkerServesWhatTheFleetBinds(t *testing.T) {
	f, addr := started(t)
	crew := f.Crew()
	if len(crew) != 2 || !crew[0].Ready || !crew[1].Ready {
		t.Fatalf("crew %+v, want two that are ready", crew)
	}
	if got := slices.Concat(crew[0].Slots, crew[1].Slots); !slices.Equal(got, []int{0, 1, 2, 3}) {
		t.Errorf("slots %v, want each of 0 to 3 once", got)
	}
	seen := map[int]int{}
	for range 64 {
		a := ask(t, addr)
		seen[a.PID]++
		if os.Geteuid() == 0 && a.UID == 0 {
			t.Fatal("a worker runs as root")
		}
	}
	if len(seen) != 2 {
		t.Errorf("64 connections went to %v, want both workers", seen)
	}
}

func TestASecondSupervisorOnTheSameRunDirIsToldWhoHasIt(t *testing.T) {
	dir := shortDir(t)
	openFleet(t, dir)
	_, err := OpenFleet(t.Context(), testOptions(dir, testLog()))
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v, want one that names pid %d and %s", err, os.Getpid(), dir)
	}
}

func TestABusyPortIsRefusedWithTheNameOfItsHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := openFleet(t, shortDir(t))
	err = f.Apply(t.Context(), update(1, documentOn(l.Addr().(*net.TCPAddr).Port)))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) || !strings.Contains(err.Error(), "listener a") {
		t.Errorf("error %v, want the listener's name and our pid", err)
	}
	if n := len(f.Crew()); n != 0 {
		t.Errorf("%d workers after a refusal", n)
	}
	apply(t, f, update(2, documentOn(freePort(t)))) // and it is not the end
}

func TestAPortOfAnotherFleetIsBusyThoughBothShare(t *testing.T) {
	_, addr := started(t)
	_, port, _ := net.SplitHostPort(addr)
	var n int
	fmt.Sscan(port, &n)
	other := openFleet(t, shortDir(t))
	if err := other.Apply(t.Context(), update(1, documentOn(n))); err == nil || !strings.Contains(err.Error(), "in use by") {
		t.Errorf("error %v, want in use", err)
	}
}

func TestAnUpdateOpensAndClosesListeners(t *testing.T) {
	a, b := freePort(t), freePort(t)
	f := openFleet(t, shortDir(t))
	apply(t, f, update(1, documentOn(a)))
	apply(t, f, update(2, documentOn(a, b)))
	for _, port := range []int{a, b} {
		if got := ask(t, fmt.Sprintf("127.0.0.1:%d", port)); got.Generation != 2 {
			t.Errorf("port %d answers with generation %d, want 2", port, got.Generation)
		}
	}
	apply(t, f, update(3, documentOn(b)))
	if got := ask(t, fmt.Sprintf("127.0.0.1:%d", b)); got.Generation != 3 || got.Listener != "a" {
		t.Errorf("%+v, want generation 3 of a listener that was renamed to a", got)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a)); err == nil {
		c.Close()
		t.Error("a listener that was taken away still takes connections")
	}
}

func TestAnUpdateThatCannotBePersistedLeavesEverythingAsItWas(t *testing.T) {
	a, b := freePort(t), freePort(t)
	f := openFleet(t, shortDir(t))
	apply(t, f, update(1, documentOn(a)))
	u := update(2, documentOn(b))
	full := errors.New("disk full")
	u.Persist = func() error { return full }
	if err := f.Apply(t.Context(), u); !errors.Is(err, full) {
		t.Fatalf("error %v, want %v", err, full)
	}
	if got := ask(t, fmt.Sprintf("127.0.0.1:%d", a)); got.Generation != 1 {
		t.Errorf("generation %d, want 1", got.Generation)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b)); err == nil {
		c.Close()
		t.Error("the refused listener takes connections")
	}
}

func TestOurOwnWildcardDoesNotHideAnAddress(t *testing.T) {
	port := freePort(t)
	f := openFleet(t, shortDir(t))
	one := documentOn(port)
	apply(t, f, update(1, strings.Replace(one, "127.0.0.1:"+fmt.Sprint(port), ":"+fmt.Sprint(port), 1)))
	ask(t, fmt.Sprintf("127.0.0.1:%d", port))
	apply(t, f, update(2, one))
	if got := ask(t, fmt.Sprintf("127.0.0.1:%d", port)); got.Generation != 2 {
		t.Errorf("generation %d, want 2", got.Generation)
	}
}

// The connections of a stopped worker wait in its accept queues; when it is
// killed there they would be reset, were the queues its own.
func TestAKilledWorkersAcceptQueueIsServed(t *testing.T) {
	f, addr := started(t)
	victim := f.Crew()[0].PID
	stop(t, victim)
	var clients []*client
	for range 40 {
		c := dial(t, addr)
		c.say("hello")
		clients = append(clients, c)
	}
	if err := unix.Kill(victim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		if got := c.hear(); got.PID == victim {
			t.Fatalf("pid %d answered after its death", victim)
		}
	}
	until(t, "a successor is ready", func() bool {
		c := f.Crew()[0]
		return c.Ready && c.PID != victim && slices.Equal(c.Slots, []int{0, 1})
	})
	if got := f.Crew()[0].Restarts; got != 1 {
		t.Errorf("%d restarts, want 1", got)
	}
	until(t, "the successor answers", func() bool { return ask(t, addr).PID == f.Crew()[0].PID })
}

// stop returns when every thread of the process has stopped: until then it may
// accept.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, "the process is stopped", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if _, state, ok := strings.Cut(string(text), ") "); err != nil || !ok || state[0] != 'T' {
				return false
			}
		}
		return len(tasks) > 0
	})
}

func TestAStuckWorkersSlotsAreServedByOthersAndReturned(t *testing.T) {
	f, addr := started(t)
	victim := f.Crew()[1].PID
	stop(t, victim)
	until(t, "the other worker accepts on all slots", func() bool { return len(f.Crew()[0].Slots) == 4 })
	for _, live := range f.Sockets()[0].Live[2:] {
		if live {
			t.Error("a slot of the stuck worker is live")
		}
	}
	for range 20 {
		if got := ask(t, addr); got.PID == victim {
			t.Fatal("a stopped worker answered")
		}
	}
	if err := unix.Kill(victim, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "it has its slots back", func() bool {
		c := f.Crew()
		return c[1].PID == victim && len(c[1].Slots) == 2 && len(c[0].Slots) == 2 && all(f.Sockets()[0].Live)
	})
}

func TestCountersSurviveTheirWorkers(t *testing.T) {
	f, addr := started(t)
	for range 30 {
		ask(t, addr)
	}
	lines := func() float64 {
		for _, s := range f.Stats().Samples {
			if s.Name == "lines" {
				return s.Value
			}
		}
		return 0
	}
	if got := lines(); got != 30 {
		t.Fatalf("%v lines, want 30", got)
	}
	victim := f.Crew()[0].PID
	unix.Kill(victim, unix.SIGKILL)
	until(t, "a successor is ready", func() bool { c := f.Crew()[0]; return c.Ready && c.PID != victim })
	if got := lines(); got != 30 {
		t.Errorf("%v lines after a worker's death, want 30", got)
	}
}

// supervisor is a fleet in a process of its own.
type supervisor struct {
	cmd     *exec.Cmd
	reports *bufio.Scanner
}

func startSupervisor(t *testing.T, dir, document string) *supervisor {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "supervise", dir, document)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &supervisor{cmd, bufio.NewScanner(out)}
}

// report waits for a report that is as it should be.
func (s *supervisor) report(t *testing.T, ok func(report) bool) report {
	t.Helper()
	for s.reports.Scan() {
		var r report
		if err := json.Unmarshal(s.reports.Bytes(), &r); err != nil {
			t.Fatalf("the supervisor says %s", s.reports.Text())
		}
		if ok(r) {
			t.Cleanup(func() { killWorkers(pids(r.Crew)) })
			return r
		}
	}
	t.Fatal("the supervisor ended")
	return report{}
}

// killWorkers ends what a failed test would leave behind.
func killWorkers(pids []int) {
	for _, pid := range pids {
		if text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(text), "worker\x00--crew") {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func bothReady(r report) bool { return len(r.Crew) == 2 && r.Crew[0].Ready && r.Crew[1].Ready }

func TestWorkersOutliveTheirSupervisorAndTheNextOneAdoptsThem(t *testing.T) {
	dir, port := shortDir(t), freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	s := startSupervisor(t, dir, documentOn(port))
	first := s.report(t, bothReady)
	held := dial(t, addr)
	held.say("hold")
	before := held.hear()

	s.cmd.Process.Kill()
	s.cmd.Wait()
	for range 20 {
		ask(t, addr)
	}
	held.say("hold")
	if got := held.hear(); got.PID != before.PID {
		t.Errorf("pid %d, want %d", got.PID, before.PID)
	}

	f := openFleet(t, dir)
	if got := pids(f.Crew()); !slices.Equal(got, pids(first.Crew)) {
		t.Errorf("adopted %v, want %v", got, pids(first.Crew))
	}
	if a := f.Adopted(); a == nil || a.Generation != 1 || a.Config == nil {
		t.Errorf("adopted configuration %+v, want generation 1", a)
	}
	until(t, "the slots are shared out again", func() bool {
		c := f.Crew()
		return len(c) == 2 && len(c[0].Slots) == 2 && len(c[1].Slots) == 2
	})
	apply(t, f, update(2, documentOn(port)))
	if got := ask(t, addr); got.Generation != 2 {
		t.Errorf("generation %d, want 2", got.Generation)
	}
	held.say("hold")
	held.hear()

	// An adopted worker is no child of ours; its death is seen all the same.
	victim := f.Crew()[0].PID
	unix.Kill(victim, unix.SIGKILL)
	until(t, "a successor is ready", func() bool { c := f.Crew()[0]; return c.Ready && c.PID != victim })
}

// A worker that dies while nobody supervises leaves its queues to its sibling.
func TestWithoutASupervisorASiblingServesADeadWorkersSlots(t *testing.T) {
	dir, port := shortDir(t), freePort(t)
	s := startSupervisor(t, dir, documentOn(port))
	first := s.report(t, bothReady)
	s.cmd.Process.Kill()
	s.cmd.Wait()
	unix.Kill(first.Crew[0].PID, unix.SIGKILL)
	for range 20 {
		if got := ask(t, fmt.Sprintf("127.0.0.1:%d", port)); got.PID != first.Crew[1].PID {
			t.Fatalf("pid %d answered", got.PID)
		}
	}
	f := openFleet(t, dir)
	until(t, "the place is taken again", func() bool {
		c := f.Crew()
		return c[0].Ready && c[1].PID == first.Crew[1].PID && len(c[0].Slots) == 2
	})
}

// A call that is cut short because we leave is no fault of the worker's: it was
// sent away once, which left nobody to adopt.
func TestASupervisorThatLeavesSendsNobodyAway(t *testing.T) {
	dir, port := shortDir(t), freePort(t)
	f := openFleet(t, dir)
	apply(t, f, update(1, documentOn(port)))
	until(t, "both are ready", func() bool { c := f.Crew(); return len(c) == 2 && c[0].Ready && c[1].Ready })
	crew := pids(f.Crew())
	stop(t, crew[1])
	unix.Kill(crew[0], unix.SIGKILL)
	until(t, "its death is seen, and the other is told to accept", func() bool { return f.Crew()[0].PID != crew[0] })
	time.Sleep(pingTimeout / 10) // it is asked at once
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(crew[1], unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	g := openFleet(t, dir)
	if got := pids(g.Crew()); !slices.Contains(got, crew[1]) {
		t.Errorf("adopted %v, want %d among them", got, crew[1])
	}
	ask(t, fmt.Sprintf("127.0.0.1:%d", port))
}

func TestAnUpgradeSwitchesToANewCrewAndLetsTheOldFinish(t *testing.T) {
	f, addr := started(t)
	old := pids(f.Crew())
	held := dial(t, addr)
	held.say("hold")
	held.hear()
	if err := f.Upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if got := ask(t, addr); slices.Contains(old, got.PID) {
			t.Fatalf("pid %d of the old crew took a new connection", got.PID)
		}
	}
	held.say("hold")
	if got := held.hear(); !slices.Contains(old, got.PID) {
		t.Errorf("pid %d answered a connection of the old crew", got.PID)
	}
	held.conn.Close()
	until(t, "the old crew is gone", func() bool { return len(f.Crew()) == 2 })
	var sum float64
	for _, s := range f.Stats().Samples {
		sum += s.Value
	}
	if sum != 42 {
		t.Errorf("%v lines counted, want 42", sum)
	}
}

func TestABadUpgradeLeavesTheOldCrewServing(t *testing.T) {
	for _, c := range []struct{ kind, says string }{
		{"exit", "this program is broken"},
		{"hang", "no answer"},
		{"refuse", "this program knows better"},
		{"foreign", "version 99 of the control protocol"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			f, addr := started(t)
			f.options.ReadyTimeout = 2e9
			old := pids(f.Crew())
			t.Setenv("LBD_TEST_WORKER", c.kind)
			err := f.Upgrade(t.Context(), "")
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want %q", err, c.says)
			}
			if got := pids(f.Crew()); !slices.Equal(got, old) {
				t.Errorf("crew %v, want %v", got, old)
			}
			for range 10 {
				ask(t, addr)
			}
		})
	}
}

var generations = flag.Int("generations", 10, "how many crews follow each other")

func TestUpgradesLeaveNothingBehind(t *testing.T) {
	f, addr := started(t)
	upgrade := func() {
		if err := f.Upgrade(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		until(t, "the old crew is gone", func() bool { return len(f.Crew()) == 2 })
	}
	upgrade() // what is made once is made now
	fds, goroutines := countFiles(t), runtime.NumGoroutine()
	for range *generations {
		upgrade()
		ask(t, addr)
	}
	until(t, "as many descriptors and goroutines as before", func() bool {
		return countFiles(t) <= fds && runtime.NumGoroutine() <= goroutines
	})
	left, _ := filepath.Glob(filepath.Join(f.options.RunDir, "*.sock"))
	if len(left) != 2 {
		t.Errorf("%d control sockets, want 2: %v", len(left), left)
	}
	if all := descendants(t); len(all) != 2 {
		t.Errorf("%d processes, want 2: %v", len(all), all)
	}
}

// descendants lists our children, those that ended and were not waited for, too.
func descendants(t *testing.T) (all []string) {
	t.Helper()
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		all = append(all, strings.Fields(string(text))...)
	}
	return all
}

// A program that cannot start any more (here: since the environment changed)
// is tried again and again, ever more rarely; its sibling serves meanwhile.
func TestAWorkerThatCannotStartIsTriedAgain(t *testing.T) {
	f, addr := started(t)
	t.Setenv("LBD_TEST_WORKER", "exit")
	unix.Kill(f.Crew()[0].PID, unix.SIGKILL)
	until(t, "the reason is known", func() bool { return strings.Contains(f.Crew()[0].Detail, "this program is broken") })
	other := f.Crew()[1].PID
	for range 20 {
		if got := ask(t, addr); got.PID != other {
			t.Fatalf("pid %d answered", got.PID)
		}
	}
	t.Setenv("LBD_TEST_WORKER", "")
	until(t, "it runs again", func() bool { return f.Crew()[0].Ready && len(f.Crew()[0].Slots) == 2 })
}

func TestAnUpgradeToWhatIsNoProgramSaysSo(t *testing.T) {
	f, _ := started(t)
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte("#!/nonexistent\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Upgrade(t.Context(), text); err == nil || !strings.Contains(err.Error(), "not a program") {
		t.Errorf("error %v", err)
	}
	os.Chmod(text, 0o755)
	if err := f.Upgrade(t.Context(), text); err == nil || !strings.Contains(err.Error(), "keep serving") {
		t.Errorf("error %v", err)
	}
}

func TestAnUpgradeMayChangeTheNumberOfSlots(t *testing.T) {
	port := freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	f := openFleet(t, shortDir(t))
	apply(t, f, update(1, documentOn(port)))
	for generation, size := range []string{"processes: 3, threads: 3", "processes: 1, threads: 2", "processes: 2, threads: 2"} {
		apply(t, f, update(uint64(generation+2), strings.Replace(documentOn(port), "processes: 2, threads: 2", size, 1)))
		if err := f.Upgrade(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			ask(t, addr)
		}
		want := f.crew.slots()
		until(t, "as many sockets as slots: "+size, func() bool {
			s := f.Sockets()
			return len(s[0].Sockets) == want && !slices.Contains(s[0].Live, false)
		})
		for range 40 {
			ask(t, addr)
		}
	}
	if notes := strings.Join(f.Notes(), " "); strings.Contains(notes, "lbctl upgrade") {
		t.Errorf("notes %q", notes)
	}
}

func TestABadConfigurationIsRefusedByTheWorkersWithItsPlace(t *testing.T) {
	f, addr := started(t)
	u := update(2, documentOn(freePort(t)))
	u.Document = []byte("listeners: 7\n") // what workers parse is not what we parsed
	err := f.Apply(t.Context(), u)
	var es lb.Errors
	if !errors.As(err, &es) || es[0].Line != 1 {
		t.Errorf("error %v, want the document's", err)
	}
	ask(t, addr)
}

func TestShutdownEndsAllWorkersAndRefusesNewConnections(t *testing.T) {
	f, addr := started(t)
	crew := pids(f.Crew())
	if err := f.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range crew {
		if err := unix.Kill(pid, 0); err != unix.ESRCH {
			t.Errorf("pid %d is still there: %v", pid, err)
		}
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the port still takes connections")
	}
	left, _ := filepath.Glob(filepath.Join(f.options.RunDir, "*.sock"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A worker that takes the place of one whose end is not seen yet must not share
// its path: with the old one's end that would go, and no later supervisor would
// find the new one.
func TestNoWorkerTakesAnothersControlSocket(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]bool{}
	for range 3 {
		path := socketPath(dir, 1, 0)
		if seen[path] {
			t.Fatalf("%s is given twice", path)
		}
		seen[path] = true
		f, err := listenControl(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	found, err := filepath.Glob(filepath.Join(dir, controlSockets))
	if err != nil || len(found) != len(seen) {
		t.Errorf("a supervisor finds %v (%v), want %d", found, err, len(seen))
	}
}

// A worker that crashes again and again is started later each time; the other one
// accepts on its slots meanwhile, and answers.
func TestAWorkerThatCrashesAgainAndAgainIsHeldBack(t *testing.T) {
	f, addr := started(t)
	var down time.Duration
	for i := range 5 {
		victim := f.Crew()[1].PID
		began := time.Now()
		if err := unix.Kill(victim, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		spread := false
		until(t, "another takes its place", func() bool {
			c := f.Crew()
			spread = spread || c[1].State == "down" && len(c[0].Slots) == 4
			return c[1].Ready && c[1].PID != victim
		})
		if down = time.Since(began); i > 1 && !spread {
			t.Errorf("crash %d: the other worker never had all slots in %v", i+1, down)
		}
		if got := ask(t, addr); got.PID == victim {
			t.Error("a dead worker answered")
		}
	}
	if least := 8 * firstDelay; down < least {
		t.Errorf("after five crashes it was away for %v, want %v at least", down, least)
	}
	if n := f.Crew()[1].Restarts; n != 5 {
		t.Errorf("%d restarts are counted", n)
	}
}
