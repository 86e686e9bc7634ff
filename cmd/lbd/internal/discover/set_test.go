package discover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cirque-lb/lb"
)

// told is a source that answers what it was told to.
type told struct {
	mu     sync.Mutex // guards the fields below
	answer Answer
	err    error
	asks   int
	block  chan struct{}
}

func (s *told) Find(ctx context.Context) (Answer, error) {
	s.mu.Lock()
	s.asks++
	answer, err, block := s.answer, s.err, s.block
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	}
	return answer, err
}

func (s *told) say(err error, good time.Duration, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.answer = err, Answer{Good: good}
	for _, a := range addresses {
		s.answer.Backends = append(s.answer.Backends, lb.Backend{Address: a, Weight: 1})
	}
}

func (s *told) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asks
}

// rig is a Set of told sources, in a bubble with its own clock.
type rig struct {
	*Set
	t       *testing.T
	sources map[string]*told
	notes   []string
}

func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, sources: map[string]*told{"a": {}, "b": {}}}
		r.Set = New(Options{
			Note: func(e lb.Event) { r.notes = append(r.notes, strings.TrimSpace(e.Kind+" "+e.Subject+" "+e.Detail)) },
			Open: func(d lb.Discovery) Source { return r.sources[d.File] },
		})
		defer r.Close()
		f(t, r)
	})
}

func named(file string) lb.Discovery { return lb.Discovery{File: file} }

func (r *rig) found(file string) string {
	var all []string
	for _, b := range r.Found(named(file)) {
		all = append(all, b.Address)
	}
	return strings.Join(all, " ")
}

func (r *rig) wants(file, want string) {
	r.t.Helper()
	if got := r.found(file); got != want {
		r.t.Errorf("%s has %q, want %q", file, got, want)
	}
}

func (r *rig) hasChanged() bool {
	synctest.Wait()
	select {
	case <-r.Changed():
		return true
	default:
		return false
	}
}

func TestASourceThatFailsKeepsItsLastAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sources["a"].say(nil, time.Minute, "10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80")
		r.Follow([]lb.Discovery{named("a")})
		if !r.hasChanged() {
			t.Error("the first answer was not told")
		}
		r.wants("a", "10.0.0.1:80 10.0.0.2:80")

		r.sources["a"].say(errors.New("no answer"), 0)
		time.Sleep(10 * time.Minute)
		if !r.hasChanged() {
			t.Error("the failure was not told")
		}
		r.wants("a", "10.0.0.1:80 10.0.0.2:80")
		report := r.Reports()[0]
		if report.Err == nil || report.Backends != 2 || report.Failing.IsZero() || report.Answered.IsZero() {
			t.Errorf("report %+v, want a failure and the old answer", report)
		}
		if asks := r.sources["a"].asked(); asks < 15 || asks > 40 {
			t.Errorf("%d questions in ten minutes of failure, want one about every 30 s", asks)
		}
		r.sources["a"].say(nil, time.Minute, "10.0.0.3:80")
		time.Sleep(time.Minute)
		if !r.hasChanged() {
			t.Error("the new answer was not told")
		}
		r.wants("a", "10.0.0.3:80")
		want := []string{"discover.failed file a no answer", "discover.mended file a"}
		if !slices.Equal(r.notes, want) {
			t.Errorf("notes %q, want %q", r.notes, want)
		}
	})
}

func TestASourceIsAskedAgainWhenItsAnswerIsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sources["a"].say(nil, 100*time.Second, "10.0.0.1:80")
		r.Follow([]lb.Discovery{named("a")})
		time.Sleep(99 * time.Second)
		if n := r.sources["a"].asked(); n != 1 {
			t.Errorf("asked %d times within the TTL, want 1", n)
		}
		time.Sleep(12 * time.Second)
		if n := r.sources["a"].asked(); n != 2 {
			t.Errorf("asked %d times after the TTL, want 2", n)
		}
	})
}

func TestTheSameAnswerInAnotherOrderIsNoChange(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sources["a"].say(nil, time.Second, "10.0.0.1:80", "10.0.0.2:80")
		r.Follow([]lb.Discovery{named("a")})
		r.hasChanged()
		r.sources["a"].say(nil, time.Second, "10.0.0.2:80", "10.0.0.1:80")
		time.Sleep(10 * time.Second)
		if r.hasChanged() {
			t.Error("a turned answer was told as a change")
		}
		r.sources["a"].say(nil, time.Second)
		time.Sleep(2 * time.Second)
		if !r.hasChanged() {
			t.Error("an answer of no backends was not told")
		}
		r.wants("a", "")
	})
}

func TestAnAnswerOfAnEarlierLifeIsGoodUntilTheSourceAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sources["a"].say(errors.New("no answer"), 0)
		r.Recall(map[string][]lb.Backend{"file a": {{Address: "10.0.0.9:80", Weight: 1}}})
		r.wants("a", "10.0.0.9:80")
		r.Follow([]lb.Discovery{named("a")})
		time.Sleep(time.Minute)
		r.wants("a", "10.0.0.9:80")
		r.sources["a"].say(nil, time.Minute, "10.0.0.1:80")
		time.Sleep(time.Minute)
		r.wants("a", "10.0.0.1:80")
	})
}

func TestAwaitWaitsForOneQuestionEachAndNoLonger(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sources["a"].say(errors.New("no"), 0)
		r.sources["b"].block = make(chan struct{})
		start := time.Now()
		r.Await(t.Context(), []lb.Discovery{named("a")})
		if d := time.Since(start); d != 0 {
			t.Errorf("waited %s for a source that fails at once", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r.Await(ctx, []lb.Discovery{named("a"), named("b")})
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("waited %s, want the 2 s of the context", d)
		}
		r.Follow([]lb.Discovery{named("a")}) // b was tried only
		if n := len(r.Reports()); n != 1 {
			t.Errorf("%d sources are followed, want 1", n)
		}
	})
}

func TestAQuestionTakesOnlySoLong(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sources["a"].block = make(chan struct{})
		r.Follow([]lb.Discovery{named("a")})
		time.Sleep(askTime + time.Millisecond)
		synctest.Wait()
		if err := r.Reports()[0].Err; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %s: %v, want a time-out", askTime, err)
		}
	})
}

func TestOnlySoManyAreAskedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var want []lb.Discovery
		block := make(chan struct{})
		for i := range 3 * atOnce {
			name := fmt.Sprint("s", i)
			r.sources[name] = &told{block: block}
			want = append(want, named(name))
		}
		r.Follow(want)
		synctest.Wait()
		asked := 0
		for _, s := range r.sources {
			asked += s.asked()
		}
		if asked != atOnce {
			t.Errorf("%d questions in flight, want %d", asked, atOnce)
		}
		close(block)
		synctest.Wait()
		for _, report := range r.Reports() {
			if report.Asks == 0 {
				t.Errorf("%s was never asked", report.Source)
			}
		}
	})
}

func TestWhoIsNotFollowedIsNotAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sources["a"].say(nil, time.Second, "10.0.0.1:80")
		r.Follow([]lb.Discovery{named("a"), named("a")})
		synctest.Wait()
		r.Follow(nil)
		before := r.sources["a"].asked()
		time.Sleep(time.Hour)
		if n := r.sources["a"].asked(); n != before || len(r.Reports()) != 0 {
			t.Errorf("asked %d times after it was let go, %d reports", n-before, len(r.Reports()))
		}
	})
}

func TestTooManyBackendsAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var many []string
		for i := range lb.MaxBackends + 1 {
			many = append(many, fmt.Sprintf("10.0.%d.%d:80", i/256, i%256))
		}
		r.sources["a"].say(nil, time.Second, many...)
		r.Follow([]lb.Discovery{named("a")})
		synctest.Wait()
		if err := r.Reports()[0].Err; err == nil || !strings.Contains(err.Error(), "at most 10000") {
			t.Errorf("got %v", err)
		}
	})
}
