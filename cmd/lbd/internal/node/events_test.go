package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cirque-lb/lb"
)

func said(n int) lb.Event { return lb.Event{Kind: "test", Detail: fmt.Sprint(n)} }

// numbers checks that a ring has the events from first to last, and no other.
func numbers(t *testing.T, r *ring, first, last int) {
	t.Helper()
	got, _ := r.after(0)
	if len(got) != last-first+1 {
		t.Fatalf("%d events, want %d to %d", len(got), first, last)
	}
	for i, e := range got {
		if int(e.Seq) != first+i || e.Detail != fmt.Sprint(first+i) {
			t.Errorf("event %d is number %d and says %q", first+i, e.Seq, e.Detail)
		}
	}
}

func TestEventsOutliveTheSupervisor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	n := 0
	for _, more := range []int{0, 3, remembered, 2*remembered + 5, 1} {
		var r ring
		if err := r.keepIn(path); err != nil {
			t.Fatal(err)
		}
		for range more {
			n++
			r.add(said(n))
		}
		numbers(t, &r, max(1, n-remembered+1), n)
		text, err := os.ReadFile(path)
		if err != nil || len(text) > 3*remembered*200 {
			t.Fatalf("the file has %d bytes (%v)", len(text), err)
		}
		// It ends without a word.
	}
}

// However little of the file is left, the numbers go on and nothing is made up.
func TestAFileOfEventsMayBeCutAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	var r ring
	if err := r.keepIn(path); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		r.add(said(i + 1))
	}
	r.close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		var r ring
		if err := r.keepIn(path); err != nil {
			t.Fatal(err)
		}
		kept, _ := r.after(0)
		r.add(said(len(kept) + 1))
		numbers(t, &r, 1, len(kept)+1)
		r.close()
	}
}

func TestEventsThatCannotBeKeptAreRememberedAllTheSame(t *testing.T) {
	var r ring
	if err := r.keepIn(filepath.Join(t.TempDir(), "nowhere", "events")); err == nil {
		t.Error("no error for a directory that is not there")
	}
	for i := range 3 {
		r.add(said(i + 1))
	}
	numbers(t, &r, 1, 3)

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	r.file = full
	r.add(said(4))
	numbers(t, &r, 1, 4)
	if !r.torn {
		t.Error("a line that was not written counts as whole")
	}
	r.close()
}
