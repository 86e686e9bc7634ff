package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cirque-lb/lb"
)

func record(n uint64) Record {
	return Record{Generation: Generation{Counter: n, Node: "edge-1"}, Owner: OwnedFile, File: "/f", Settings: fmt.Sprintf("# %d", n)}
}

func commitAll(t *testing.T, s store, from, to uint64) {
	t.Helper()
	for n := from; n <= to; n++ {
		if err := s.commit(record(n), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHistoryKeepsTheLastFifty(t *testing.T) {
	s := store{t.TempDir()}
	commitAll(t, s, 1, 53)
	all := s.list()
	if len(all) != kept || all[0].Counter != 4 || all[kept-1].Counter != 53 {
		t.Errorf("history has %d generations, %v to %v; want 50, 4 to 53", len(all), all[0], all[len(all)-1])
	}
}

func TestACorruptStateFileIsSetAsideAndTold(t *testing.T) {
	for _, c := range []struct {
		name, file string
		spoil      func(string) error
		runs       uint64
		told       string
	}{
		{"a torn record", "generations/000000000003@edge-1.json", func(p string) error { return os.Truncate(p, 90) }, 2, "generation 2@edge-1 is the newest"},
		{"a record that is gone", "generations/000000000003@edge-1.json", os.Remove, 2, "generation 2@edge-1 is the newest"},
		{"an edited pointer", "current.json", flip, 3, "set aside"},
		{"a pointer that is gone", "current.json", os.Remove, 3, "generation 3@edge-1 is the newest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := store{t.TempDir()}
			commitAll(t, s, 1, 3)
			if err := c.spoil(filepath.Join(s.dir, c.file)); err != nil {
				t.Fatal(err)
			}
			r, _, told, err := s.last()
			if err != nil {
				t.Fatal(err)
			}
			if r.Generation.Counter != c.runs {
				t.Errorf("generation %s runs, want %d", r.Generation, c.runs)
			}
			if text := strings.Join(told, "\n"); !strings.Contains(text, c.told) {
				t.Errorf("told %q, want %q in it", text, c.told)
			}
		})
	}
}

func flip(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text[len(text)-3] ^= 1
	return os.WriteFile(path, text, 0o600)
}

func TestACorruptOverlayIsTold(t *testing.T) {
	s := store{t.TempDir()}
	if err := s.writeOverlay(Overlay{Backends: map[lb.BackendID]lb.Admin{{Pool: "app", Address: "a:1"}: {Drain: true}}}); err != nil {
		t.Fatal(err)
	}
	o, told, err := s.readOverlay()
	if err != nil || told != nil || !o.Backends[lb.BackendID{Pool: "app", Address: "a:1"}].Drain {
		t.Fatalf("read %v %v %v, want the drain", o, told, err)
	}
	if err := flip(s.overlay()); err != nil {
		t.Fatal(err)
	}
	if o, told, err = s.readOverlay(); err != nil || len(told) != 1 || len(o.Backends) != 0 {
		t.Errorf("read %v %v %v, want an empty overlay and a line about it", o, told, err)
	}
}

func TestTheSeedIsMadeOnce(t *testing.T) {
	s := store{t.TempDir()}
	first, told := s.ownSeed()
	second, _ := s.ownSeed()
	if told != nil || first == [16]byte{} || first != second {
		t.Errorf("seeds %x and %x (%v), want one that stays", first, second, told)
	}
}

func TestTwoNodesDoNotShareADataDir(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lbd.yaml")
	text := fmt.Sprintf("node: { data_dir: %s }\nlisteners: { web: { bind: \":8080\" } }\nroutes: [{ respond: { status: 200 } }]\n", dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file, nil); err == nil || !strings.Contains(err.Error(), "another lbd") {
		t.Errorf("a second lbd on the same data_dir: %v, want it refused", err)
	}
	first.Close()
	again, err := Load(file, nil)
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	again.Close()
}

func TestTheRingForgetsTheOldestAndNumbersTheRest(t *testing.T) {
	var r ring
	for i := range remembered + 10 {
		r.add(lb.Event{Subject: fmt.Sprint(i)})
	}
	all, more := r.after(0)
	if len(all) != remembered || all[0].Seq != 11 || all[remembered-1].Seq != remembered+10 {
		t.Fatalf("%d events, first %d, want %d from 11", len(all), all[0].Seq, remembered)
	}
	if rest, _ := r.after(remembered + 8); len(rest) != 2 {
		t.Errorf("%d events after the last but two, want 2", len(rest))
	}
	r.add(lb.Event{})
	select {
	case <-more:
	default:
		t.Error("nobody was told of the next event")
	}
}

func TestOnlySoManyChangesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		if err := g.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range waiting {
			go g.enter(ctx)
		}
		synctest.Wait()
		if err := g.enter(ctx); err == nil {
			t.Errorf("more than %d changes may wait", waiting)
		}
	})
}
