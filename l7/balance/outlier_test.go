package balance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// court is an Outliers with what its backends do.
type court struct {
	Outliers
	failing map[string]bool
}

func newCourt(most float64, names ...string) *court {
	c := &court{failing: map[string]bool{}}
	c.Set(Policy{Interval: 10 * time.Second, Eject: 30 * time.Second, Most: most}, names)
	return c
}

// at says what changes at a second, and when the next look is due.
func (c *court) at(second int) string {
	ejected, back := c.Update(epoch.Add(time.Duration(second)*time.Second), func(name string) bool { return c.failing[name] })
	next := "-"
	if !c.Next().IsZero() {
		next = fmt.Sprint(c.Next().Sub(epoch).Seconds())
	}
	return fmt.Sprintf("out %s, back %s, next %s", strings.Join(ejected, ""), strings.Join(back, ""), next)
}

func TestOutliers(t *testing.T) {
	type step struct {
		second  int
		failing string
		want    string
	}
	for _, c := range []struct {
		name  string
		most  float64
		names string
		steps []step
	}{
		{"who fails goes and comes back", 0.5, "abcd", []step{
			{0, "", "out , back , next -"},
			{1, "b", "out b, back , next 31"},
			{30, "", "out , back , next 31"},
			{31, "b", "out , back b, next 41"}, // it begins anew: what failed was before
			{41, "", "out , back , next -"},
		}},
		{"each ejection is longer, each interval without one forgives", 0.5, "abcd", []step{
			{0, "a", "out a, back , next 30"},
			{30, "", "out , back a, next 40"},
			{35, "a", "out a, back , next 95"},
			{95, "", "out , back a, next 105"},
			{96, "a", "out a, back , next 186"},
			{186, "", "out , back a, next 196"},
			{196, "", "out , back , next 206"},
			{206, "", "out , back , next 216"},
			{216, "", "out , back , next -"},
			{217, "a", "out a, back , next 247"},
		}},
		{"no more than a share", 0.5, "abcd", []step{
			{0, "abcd", "out ab, back , next 10"},
			{10, "abcd", "out , back , next 20"},
			{30, "abcd", "out cd, back ab, next 40"},
		}},
		{"one of several may always go", 0.1, "abc", []step{{0, "ac", "out a, back , next 10"}}},
		{"none if none may", 0, "abc", []step{{0, "ac", "out , back , next 10"}}},
		{"never the only one", 1, "a", []step{{0, "a", "out , back , next 10"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			court := newCourt(c.most, strings.Split(c.names, "")...)
			for _, s := range c.steps {
				clear(court.failing)
				for _, name := range strings.Split(s.failing, "") {
					court.failing[name] = true
				}
				if got := court.at(s.second); got != s.want {
					t.Fatalf("at %d: got %q, want %q", s.second, got, s.want)
				}
			}
		})
	}
}

func TestOutliersKeepTheirSentenceWhenThePoolChanges(t *testing.T) {
	c := newCourt(0.5, "a", "b", "c", "d")
	c.failing["a"], c.failing["b"] = true, true
	c.at(0)
	c.Set(c.policy, []string{"b", "c", "d", "e"})
	if got := c.Ejected(); len(got) != 1 || got[0] != (Ejection{"b", epoch, epoch.Add(30 * time.Second), 1}) {
		t.Errorf("got %v", got)
	}
}

// Whatever fails when: never too many are out, nobody is out for longer than
// ten times the first, and Next never lies in the past of what it waits for.
func TestOutliersAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := strings.Split("abcdefghijklmnop"[:rapid.IntRange(1, 16).Draw(t, "backends")], "")
		c := newCourt(rapid.Float64Range(0, 1).Draw(t, "most"), names...)
		now := 0
		for range 40 {
			now += rapid.IntRange(0, 60).Draw(t, "after")
			for _, name := range names {
				c.failing[name] = rapid.Bool().Draw(t, "fails")
			}
			before := c.Ejected()
			c.at(now)
			out := c.Ejected()
			if len(out) > 0 && (len(names) == 1 || len(out) > max(1, int(c.policy.Most*float64(len(names))+1e-9))) {
				t.Fatalf("%d of %d are out", len(out), len(names))
			}
			at := epoch.Add(time.Duration(now) * time.Second)
			for _, e := range out {
				if e.Until.Sub(e.Since) > mostTimes*c.policy.Eject || !e.Until.After(at) {
					t.Fatalf("%v at %v", e, at)
				}
				if c.Next().After(e.Until) {
					t.Fatalf("the next look is at %v, %v is over", c.Next(), e)
				}
			}
			for _, e := range before {
				if at.Before(e.Until) && !slices.ContainsFunc(out, func(o Ejection) bool { return o == e }) {
					t.Fatalf("%v is back at %v", e, at)
				}
			}
			if !c.Next().IsZero() && !c.Next().After(at) {
				t.Fatalf("at %v the next look is due at %v", at, c.Next())
			}
		}
	})
}

func TestRamp(t *testing.T) {
	for _, c := range []struct {
		age  time.Duration
		want float64
	}{{0, 0.1}, {2 * time.Second, 0.1}, {15 * time.Second, 0.5}, {27 * time.Second, 0.9}, {30 * time.Second, 1}, {time.Hour, 1}} {
		if got := Ramp(c.age, 30*time.Second); got != c.want {
			t.Errorf("after %v: %v, want %v", c.age, got, c.want)
		}
	}
	if Ramp(0, 0) != 1 {
		t.Error("without a window it is not whole at once")
	}
}
