package balance

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLatencyJumpsUpAndComesDownSlowly(t *testing.T) {
	var l Latency
	near := func(now time.Duration, want float64) {
		t.Helper()
		if got := l.Seconds(now); math.Abs(got-want) > 0.01*want+1e-9 {
			t.Errorf("at %v: %v, want %v", now, got, want)
		}
	}
	near(0, 0)
	l.Observe(time.Second, 10*time.Millisecond)
	near(time.Second, 0.010)
	l.Observe(time.Second, time.Second) // a peak counts at once
	near(time.Second, 1)
	l.Observe(time.Second, 10*time.Millisecond) // one good answer right after proves nothing
	near(time.Second, 1)
	near(time.Second+latencyTau, 1/math.E) // silence heals
	l.Observe(time.Second+latencyTau, 10*time.Millisecond)
	near(time.Second+latencyTau, 1/math.E+0.01*(1-1/math.E))
	near(0, 1/math.E+0.01*(1-1/math.E)) // a clock that is behind changes nothing
}

// However often it is told, in however short a time, the average stays among
// what it was told.
func TestLatencyStaysAmongWhatWasSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Latency
		now, low, high := time.Duration(0), math.Inf(1), 0.0
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			now += time.Duration(rapid.IntRange(0, 5_000_000_000).Draw(t, "after"))
			took := time.Duration(rapid.IntRange(1000, 60_000_000_000).Draw(t, "took"))
			l.Observe(now, took)
			low, high = min(low, took.Seconds()), max(high, took.Seconds())
			if s := l.Seconds(now); s < low*0.999 || s > high*1.001 {
				t.Fatalf("%v is not in %v..%v", s, low, high)
			}
		}
	})
}

func TestLatencyIsObservedByManyThreads(t *testing.T) {
	var l Latency
	var threads sync.WaitGroup
	for range 4 {
		threads.Go(func() {
			for i := range 10_000 {
				l.Observe(time.Duration(i)*time.Millisecond, time.Millisecond)
			}
		})
	}
	threads.Wait()
	if s := l.Seconds(10 * time.Second); math.Abs(s-0.001) > 1e-4 {
		t.Errorf("got %v s, want 1 ms", s)
	}
}

// world is a simulation: each candidate answers one request after another, in
// its own time.
type world struct {
	c    []Candidate
	took []time.Duration
	got  []int
	free []time.Duration // when each is done with what it has
	done []completion
}

type completion struct {
	at, began time.Duration
	i         int
}

// run sends a request each step until the end, by this balancer.
func (w *world) run(b Balancer, from, to, step time.Duration, random *rand.Rand) {
	for now := from; now < to; now += step {
		kept := w.done[:0]
		for _, d := range w.done {
			if d.at > now {
				kept = append(kept, d)
				continue
			}
			w.c[d.i].Active.Add(-1)
			w.c[d.i].Latency.Observe(d.at, d.at-d.began)
		}
		w.done = kept
		i := b.Pick(Ask{Random: random.Uint64(), Now: now})
		w.got[i]++
		w.c[i].Active.Add(1)
		w.free[i] = max(w.free[i], now) + w.took[i]
		w.done = append(w.done, completion{w.free[i], now, i})
	}
}

func TestEWMAShunsTheSlowOneAndTriesItAgain(t *testing.T) {
	ms := time.Millisecond
	w := &world{c: candidates(1, 1, 1, 1), took: []time.Duration{2 * ms, 2 * ms, 2 * ms, 40 * ms}, got: make([]int, 4), free: make([]time.Duration, 4)}
	b, random := build(t, "ewma", w.c), rand.New(rand.NewPCG(1, 2))
	w.run(b, 0, 60*time.Second, ms, random)
	slow, all := w.got[3], 60_000
	if slow > all/50 || slow < all/1000 {
		t.Errorf("the slow one got %d of %d; want few, but some", slow, all)
	}
	w.took[3], w.got = 2*ms, make([]int, 4)
	w.run(b, 60*time.Second, 120*time.Second, ms, random)
	if w.got[3] < all/8 {
		t.Errorf("well again, it got %d of %d", w.got[3], all)
	}
}

func TestEWMADoesNotFloodWhoHasNotAnsweredYet(t *testing.T) {
	c := candidates(1, 1, 1)
	c[0].Latency.Observe(0, time.Millisecond)
	c[1].Latency.Observe(0, time.Millisecond)
	b, random := build(t, "ewma", c), rand.New(rand.NewPCG(1, 2))
	got := make([]int, 3)
	for range 3000 {
		i := b.Pick(Ask{Random: random.Uint64(), Now: time.Second})
		got[i]++
		if i == 2 {
			c[2].Active.Add(1) // and does not answer
		}
	}
	if got[2] == 0 || got[2] > 60 {
		t.Errorf("the new one got %d of 3000; want few, but some", got[2])
	}
}
