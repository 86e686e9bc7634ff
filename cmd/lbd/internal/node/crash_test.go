package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// dieAt is the number of the step at which a child of this test is killed.
const dieAt = "NODE_TEST_DIE_AT"

// saves are what a node writes, one after the other; each leaves the state that
// its number stands for.
var saves = []struct {
	name string
	do   func(store) error
}{
	{"the first generation", func(s store) error { return s.commit(record(1), nil) }},
	{"the second", func(s store) error { return s.commit(record(2), nil) }},
	{"a drain", func(s store) error { return s.writeOverlay(drained("a")) }},
	{"a third, on trial", func(s store) error { return s.commit(record(3), onTrial) }},
	{"its confirmation", func(s store) error { return s.point(Generation{Counter: 3, Node: "edge-1"}, nil) }},
	{"another drain", func(s store) error { return s.writeOverlay(drained("b")) }},
	{"what was found", func(s store) error { return s.writeFound(answers("10.0.0.1:80")) }},
	{"and found then", func(s store) error { return s.writeFound(answers("10.0.0.2:80")) }},
	{"the last generation", func(s store) error { return s.commit(record(4), nil) }},
}

var onTrial = &Trial{Back: Generation{Counter: 2, Node: "edge-1"}, Until: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), By: "test"}

func drained(address string) Overlay {
	return Overlay{Backends: map[lb.BackendID]lb.Admin{{Pool: "app", Address: address}: {Drain: true}}}
}

func answers(address string) map[string][]lb.Backend {
	return map[string][]lb.Backend{"dns app.internal:80": {{Address: address, Weight: 1}}}
}

// held is all that a store holds, in one line.
func held(t *testing.T, s store) (text string, told []string) {
	t.Helper()
	r, trial, told, err := s.last()
	if err != nil {
		t.Fatalf("read the last generation: %v", err)
	}
	if r.Generation.Counter > 0 && r.Settings != record(r.Generation.Counter).Settings {
		t.Errorf("generation %s has the text %q", r.Generation, r.Settings)
	}
	overlay, more, err := s.readOverlay()
	if err != nil {
		t.Fatalf("read the overlay: %v", err)
	}
	found, others := s.readFound()
	text = fmt.Sprintf("generation %d", r.Generation.Counter)
	if trial != nil {
		text += fmt.Sprintf(" or %s by %s", trial.Back, trial.By)
	}
	for id := range overlay.Backends {
		text += " drain " + id.Address
	}
	for _, all := range found {
		text += " found " + all[0].Address
	}
	return text, slices.Concat(told, more, others)
}

// states are those before the first save and after each.
func states(t *testing.T) []string {
	t.Helper()
	s := store{t.TempDir()}
	first, _ := held(t, s)
	all := []string{first}
	for _, save := range saves {
		if err := save.do(s); err != nil {
			t.Fatalf("%s: %v", save.name, err)
		}
		text, told := held(t, s)
		if told != nil {
			t.Fatalf("%s: %v", save.name, told)
		}
		all = append(all, text)
	}
	return all
}

// TestDieWhileSaving is the child: it saves all there is, says how far it is,
// and is killed at a step.
func TestDieWhileSaving(t *testing.T) {
	last, err := strconv.Atoi(os.Getenv(dieAt))
	if err != nil {
		t.Skip("the child of TestAKillAtAnyStepOfASaveLosesNothing")
	}
	step := 0
	passed = func(string) error {
		if step++; step == last {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}
	s := store{os.Getenv("NODE_TEST_DIR")}
	for i, save := range saves {
		if err := save.do(s); err != nil {
			t.Fatalf("%s: %v", save.name, err)
		}
		fmt.Fprintln(os.Stderr, "saved", i+1)
	}
}

// What was acknowledged is there after a kill -9 at any step of a write; what
// was under way is there whole or not at all; and nothing was torn.
func TestAKillAtAnyStepOfASaveLosesNothing(t *testing.T) {
	want := states(t)
	for step := 1; ; step++ {
		dir := t.TempDir()
		c := exec.Command(os.Args[0], "-test.run=^TestDieWhileSaving$")
		c.Env = append(os.Environ(), fmt.Sprintf("%s=%d", dieAt, step), "NODE_TEST_DIR="+dir)
		var said bytes.Buffer
		c.Stderr = &said
		err := c.Run()
		saved := strings.Count(said.String(), "saved")
		if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
			t.Fatalf("step %d: %v\n%s", step, err, said.String())
		}
		got, told := held(t, store{dir})
		if told != nil {
			t.Errorf("killed at step %d, after %d saves: %v", step, saved, told)
		}
		if got != want[saved] && (err == nil || got != want[saved+1]) {
			t.Errorf("killed at step %d, after %d saves: the state is %q, want %q or that after the next save", step, saved, got, want[saved])
		}
		litter(t, dir)
		if err == nil {
			if step < 5*len(saves) {
				t.Errorf("all saves took %d steps; want at least five each", step)
			}
			t.Logf("%d steps", step-1)
			return
		}
	}
}

// A disk that fails at any step of a write has the save refused, and the state
// stays what it was; one that goes on failing, too.
func TestAnErrorAtAnyStepOfASaveLeavesTheStateBefore(t *testing.T) {
	want := states(t)
	defer func() { passed = func(string) error { return nil } }()
	for _, forever := range []bool{false, true} {
		for failing := 1; ; failing++ {
			s := store{t.TempDir()}
			step, at, refused := 0, "", 0
			passed = func(what string) error {
				if step++; step == failing || forever && step > failing {
					at = what
					return syscall.EIO
				}
				return nil
			}
			expected := want[0]
			for i, save := range saves {
				err := save.do(s)
				switch {
				case err == nil:
					expected = want[i+1]
				case !errors.Is(err, syscall.EIO):
					t.Fatalf("%s, at %q: %v", save.name, at, err)
				}
				if err == nil {
					continue
				}
				refused++
				got, told := held(t, s)
				if got != expected || told != nil {
					t.Errorf("%s was refused at %q: the state is %q (%v), want %q", save.name, at, got, told, expected)
				}
				if !forever {
					break
				}
			}
			litter(t, s.dir)
			if refused == 0 {
				t.Logf("%d steps", failing-1)
				break
			}
		}
	}
}

// litter finds more than one temporary file, or one that the next save of the
// same file would not take over.
func litter(t *testing.T, dir string) {
	t.Helper()
	var fresh []string
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		switch ext := filepath.Ext(path); ext {
		case ".new":
			fresh = append(fresh, path)
		case ".json", "":
		default:
			t.Errorf("%s is left", path)
		}
		return nil
	})
	if len(fresh) > 1 {
		t.Errorf("%v are left, want one at most", fresh)
	}
}

// A state file that is cut anywhere, or has one byte changed, is noticed, set
// aside and told; what runs then is an acknowledged generation.
func TestNoDamageGoesUnnoticed(t *testing.T) {
	dir := t.TempDir()
	s := store{dir}
	for n := uint64(1); n <= 3; n++ {
		if err := s.commit(record(n), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.writeOverlay(drained("a")), s.writeFound(answers("10.0.0.1:80"))); err != nil {
		t.Fatal(err)
	}
	s.ownSeed()
	for _, c := range []struct {
		file, want string // the state with it damaged
		told       string
	}{
		{"current.json", "generation 3 drain a found 10.0.0.1:80", "generation 3@edge-1 is the newest"},
		{"generations/000000000003@edge-1.json", "generation 2 drain a found 10.0.0.1:80", "generation 2@edge-1 is the newest"},
		{"overlay.json", "generation 3 found 10.0.0.1:80", "drains, disables and weights given by operators are lost"},
		{"found.json", "generation 3 drain a", "discovered backends are unknown"},
		{"seed.json", "generation 3 drain a found 10.0.0.1:80", "flows of VIPs move"},
	} {
		path := filepath.Join(dir, c.file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := range text {
			for name, damaged := range map[string][]byte{"cut": text[:at], "changed": flipped(text, at)} {
				write(t, path, damaged)
				got, told := held(t, s)
				if c.file == "seed.json" {
					_, told = s.ownSeed()
				}
				if all := strings.Join(told, "\n"); got != c.want || !strings.Contains(all, c.told) || !strings.Contains(all, "set aside as "+path+".corrupt") {
					t.Fatalf("%s %s at byte %d of %d: %q, told %q; want %q and %q", c.file, name, at, len(text), got, all, c.want, c.told)
				}
				write(t, path, text)
				if err := os.Remove(path + ".corrupt"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func flipped(text []byte, at int) []byte {
	out := slices.Clone(text)
	out[at] ^= 1
	return out
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A generation that was written but never pointed to was told to nobody.
func TestARecordThatNobodyWasToldOfIsForgotten(t *testing.T) {
	s := store{t.TempDir()}
	commitAll(t, s, 1, 3)
	if err := writeSealed(s.record(Generation{Counter: 4, Node: "edge-1"}), record(4)); err != nil {
		t.Fatal(err)
	}
	if err := writeSealed(s.record(Generation{Counter: 4, Node: "edge-2"}), record(4)); err != nil {
		t.Fatal(err)
	}
	if r, _, _, err := s.last(); err != nil || r.Generation.Counter != 3 {
		t.Fatalf("generation %s runs, %v; want 3", r.Generation, err)
	}
	if all := s.list(); len(all) != 4 || all[3].Node != "edge-2" {
		t.Errorf("the history is %v, want 1 to 3 and another node's 4", all)
	}
}

// What returns when a trial ends badly stays, however many settings were
// reloaded meanwhile.
func TestTheGenerationThatATrialReturnsToIsKept(t *testing.T) {
	s := store{t.TempDir()}
	commitAll(t, s, 1, 2)
	for n := uint64(3); n <= 60; n++ {
		if err := s.commit(record(n), onTrial); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.read(onTrial.Back); err != nil {
		t.Errorf("generation %s is gone: %v", onTrial.Back, err)
	}
}
