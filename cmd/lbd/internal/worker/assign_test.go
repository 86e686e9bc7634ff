package worker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// told writes a duty as "0:0.0* 1:1.0": slot, worker and thread, a star when
// the slot is live.
func told(d duty) string {
	out := make([]string, len(d.live))
	for w, grants := range d.grants {
		for _, g := range grants {
			star := ""
			if d.live[g.Slot] {
				star = "*"
			}
			out[g.Slot] += fmt.Sprintf("%d:%d.%d%s", g.Slot, w, g.Thread, star)
		}
	}
	return strings.Join(out, " ")
}

func TestAssign(t *testing.T) {
	up := place{ready: true}
	for _, c := range []struct {
		name           string
		slots, threads int
		crew           []place
		want           string
	}{
		{"everybody is at home", 4, 2, []place{up, up}, "0:0.0* 1:0.1* 2:1.0* 3:1.1*"},
		{"a dead worker's slots are spread over the other's threads", 4, 2, []place{{}, up}, "0:1.0 1:1.1 2:1.0* 3:1.1*"},
		{"several adopt before one adopts twice", 6, 2, []place{{}, up, up}, "0:1.0 1:2.0 2:1.0* 3:1.1* 4:2.0* 5:2.1*"},
		{"a thread that hangs loses its slot to another", 4, 2, []place{up, {ready: true, stuck: []bool{true, false}}}, "0:0.0* 1:0.1* 2:0.0 3:1.1*"},
		{"slots of a larger crew are served until they close", 4, 1, []place{up, up}, "0:0.0* 1:1.0* 2:0.0 3:1.0"},
		{"nobody serves: all stay at home, live", 4, 2, []place{{}, {}}, "0:0.0* 1:0.1* 2:1.0* 3:1.1*"},
		{"nobody serves and the crew is smaller", 3, 1, []place{{}, {}}, "0:0.0* 1:1.0* "},
	} {
		if got := told(assign(c.slots, c.threads, c.crew)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Invariant: while anybody serves, every slot has exactly one who accepts on
// it, who serves; and a slot is live exactly when its home serves.
func TestEverySlotIsServedByOneWhoServes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		threads := rapid.IntRange(1, 4).Draw(t, "threads")
		crew := make([]place, rapid.IntRange(1, 5).Draw(t, "workers"))
		anybody := false
		for i := range crew {
			crew[i] = place{rapid.Bool().Draw(t, "ready"), rapid.SliceOfN(rapid.Bool(), 0, threads).Draw(t, "stuck")}
			for thread := range threads {
				anybody = anybody || crew[i].serves(thread)
			}
		}
		slots := rapid.IntRange(1, 20).Draw(t, "slots")
		d := assign(slots, threads, crew)
		served := make([]int, slots)
		for w, grants := range d.grants {
			for _, g := range grants {
				served[g.Slot]++
				home := g.Slot/threads == w && g.Slot%threads == g.Thread
				if anybody && (!crew[w].serves(g.Thread) || home != d.live[g.Slot]) {
					t.Errorf("slot %d is given to thread %d of worker %d, live %v", g.Slot, g.Thread, w, d.live[g.Slot])
				}
			}
		}
		if anybody && slices.ContainsFunc(served, func(n int) bool { return n != 1 }) {
			t.Errorf("times each slot is served: %v", served)
		}
	})
}
