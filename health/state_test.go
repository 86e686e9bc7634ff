package health

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb"
)

func TestRiseAndFall(t *testing.T) {
	for _, test := range []struct {
		name       string
		rise, fall int
		results    string // + success, - failure
		want       string // the health after each: ? unknown, u up, d down
	}{
		{"the first success makes it up", 2, 3, "+", "u"},
		{"fall failures in a row make it down", 2, 3, "+---", "uuud"},
		{"a success in between starts the count again", 2, 3, "+--+--+---", "uuuuuuuuud"},
		{"rise successes in a row bring it back", 2, 3, "---++", "??ddu"},
		{"one success is not enough to come back", 2, 3, "---+-+-++", "??ddddddu"},
		{"unknown needs fall failures, too", 2, 3, "--+", "??u"},
		{"one and one", 1, 1, "-+-+", "dudu"},
		{"nought counts as one", 0, 0, "-+", "du"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s state
			var got strings.Builder
			for _, r := range test.results {
				s = s.after(r == '+', test.rise, test.fall)
				got.WriteByte("?ud"[s.health])
			}
			if got.String() != test.want {
				t.Errorf("%s: got %s, want %s", test.results, got.String(), test.want)
			}
		})
	}
}

// TestAChangeNeedsItsRow: whatever the results, the state turns down only on the
// fall-th failure in a row and up only on the rise-th success.
func TestAChangeNeedsItsRow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rise, fall := rapid.IntRange(1, 5).Draw(t, "rise"), rapid.IntRange(1, 5).Draw(t, "fall")
		results := rapid.SliceOf(rapid.Bool()).Draw(t, "results")
		var s state
		for i, ok := range results {
			before := s.health
			s = s.after(ok, rise, fall)
			row := 1
			for row <= i && results[i-row] == ok {
				row++
			}
			switch {
			case s.streak != row:
				t.Fatalf("result %d: streak %d, want %d", i, s.streak, row)
			case before == s.health:
			case s.health == lb.Down && row == fall && !ok:
			case s.health == lb.Up && ok && (row == rise || before == lb.Unknown):
			default:
				t.Fatalf("result %d: %v to %v after %d in a row", i, before, s.health, row)
			}
		}
	})
}
