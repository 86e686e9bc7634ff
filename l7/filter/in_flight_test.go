package filter

import (
	"net/http"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

func TestRateLimitBoundsWhatIsInFlight(t *testing.T) {
	entered, release := make(chan bool), make(chan bool)
	backend := origin(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- true
		<-release
	})
	p := l7test.Start(t, All, through(`rate_limit: { in_flight: 2, by: "header:x-user" }`, backend))
	done := make(chan int, 10)
	start := func(user string) {
		go func() { done <- get(t, p.URL, "X-User", user).StatusCode }()
	}
	start("a")
	start("a")
	<-entered
	<-entered
	start("a")
	if status := <-done; status != 429 {
		t.Errorf("a third at once: got %d", status)
	}
	start("b")
	<-entered
	for range 3 {
		release <- true
		if status := <-done; status != 200 {
			t.Errorf("got %d", status)
		}
	}
	for p.Stats().Requests > 0 { // a place is free when the request is logged
	}
	start("a")
	<-entered
	release <- true
	if status := <-done; status != 200 {
		t.Errorf("after the others: got %d", status)
	}
}

// In any order of coming and going, exactly those are refused that find all
// places taken, and at the end nothing is kept.
func TestInFlightCountsExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 3).Draw(t, "most")
		var f l7.Filter
		limitInFlight(&f, most, func(s *l7.Session) uint64 { return uint64(s.Request.Header.Get("x-user")[0]) }, nil)
		running := map[string][]*l7.Session{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			user := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "user")
			if rapid.Bool().Draw(t, "leaves") && len(running[user]) > 0 {
				f.Log(running[user][0], nil)
				running[user] = running[user][1:]
				continue
			}
			s := &l7.Session{Start: time.Now(), Request: &l7.Request{Header: l7.Header{{Name: "x-user", Value: user}}}}
			_, err := f.Request(s)
			if full := len(running[user]) >= most; full != (err != nil) {
				t.Fatalf("%d of %d run: got %v", len(running[user]), most, err)
			}
			if err == nil {
				running[user] = append(running[user], s)
			} else {
				f.Log(s, err) // its Log runs, too, and frees nothing
			}
		}
		for _, all := range running {
			for _, s := range all {
				f.Log(s, nil)
			}
		}
	})
}

func BenchmarkInFlight(b *testing.B) {
	f := built(b, rateLimit, `{ in_flight: 10 }`)
	s := &l7.Session{Start: time.Now(), Request: &l7.Request{}}
	b.ReportAllocs()
	for b.Loop() {
		f.Request(s)
		f.Log(s, nil)
	}
}
