package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// ask sends a request of a client through the filter and says what it got.
func ask(f *l7.Filter, client string, at time.Time, h ...l7.Field) string {
	s := &l7.Session{Start: at, Request: &l7.Request{Client: netip.AddrPortFrom(netip.MustParseAddr(client), 1), Header: h}}
	res, err := f.Request(s)
	var e *l7.Error
	switch {
	case res == nil && err == nil:
		return "ok"
	case errors.As(err, &e) && e.Status == 429 && e.Reason == lb.RateLimited:
		return fmt.Sprint("wait ", e.RetryAfter.Round(time.Millisecond))
	}
	return fmt.Sprint(res, err)
}

func TestRateLimit(t *testing.T) {
	type step struct {
		at     time.Duration
		client string
		field  string
		want   string
	}
	for _, c := range []struct {
		name, config string
		steps        []step
	}{
		{"a burst, then the rate", `{ per_second: 10, burst: 2 }`, []step{
			{0, "10.0.0.1", "", "ok"}, {0, "10.0.0.1", "", "ok"}, {0, "10.0.0.1", "", "wait 100ms"},
			{50 * time.Millisecond, "10.0.0.1", "", "wait 50ms"}, {100 * time.Millisecond, "10.0.0.1", "", "ok"},
			{100 * time.Millisecond, "10.0.0.1", "", "wait 100ms"}, {time.Hour, "10.0.0.1", "", "ok"}, {time.Hour, "10.0.0.1", "", "ok"},
			{time.Hour, "10.0.0.1", "", "wait 100ms"}}},
		{"clients do not share", `{ per_second: 1, burst: 1 }`, []step{
			{0, "10.0.0.1", "", "ok"}, {0, "10.0.0.2", "", "ok"}, {0, "10.0.0.1", "", "wait 1s"}}},
		{"an IPv6 client has a /64", `{ per_second: 1, burst: 1, by: client }`, []step{
			{0, "2001:db8::1", "", "ok"}, {0, "2001:db8::2", "", "wait 1s"}, {0, "2001:db8:0:1::1", "", "ok"}}},
		{"a mapped address is IPv4", `{ per_second: 1, burst: 1 }`, []step{
			{0, "10.0.0.1", "", "ok"}, {0, "::ffff:10.0.0.1", "", "wait 1s"}, {0, "::ffff:10.0.0.2", "", "ok"}}},
		{"by header", `{ per_second: 1, burst: 1, by: "header:X-Key" }`, []step{
			{0, "10.0.0.1", "a", "ok"}, {0, "10.0.0.2", "a", "wait 1s"}, {0, "10.0.0.1", "b", "ok"},
			{0, "10.0.0.1", "", "ok"}, {0, "10.0.0.1", "", "wait 1s"}}},
		{"by route", `{ per_second: 1, burst: 1, by: route }`, []step{
			{0, "10.0.0.1", "", "ok"}, {0, "10.0.0.2", "", "wait 1s"}}},
		{"less than one a second", `{ per_second: 0.1 }`, []step{
			{0, "10.0.0.1", "", "ok"}, {0, "10.0.0.1", "", "wait 10s"}}},
		{"the burst defaults to a second's worth", `{ per_second: 3 }`, []step{
			{0, "10.0.0.1", "", "ok"}, {0, "10.0.0.1", "", "ok"}, {0, "10.0.0.1", "", "ok"}, {0, "10.0.0.1", "", "wait 333ms"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := rateLimit(node(t, c.config))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			for i, s := range c.steps {
				var h []l7.Field
				if s.field != "" {
					h = []l7.Field{{Name: "x-key", Value: s.field}}
				}
				if got := ask(&f, s.client, start.Add(s.at), h...); got != s.want {
					t.Errorf("step %d: got %q, want %q", i, got, s.want)
				}
			}
		})
	}
}

// Whatever the times of the requests, in any stretch of time no more are let
// through than the burst and the rate allow.
func TestRateLimitNeverLetsMoreThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate, burst := rapid.Float64Range(0.5, 1000).Draw(t, "rate"), rapid.IntRange(1, 20).Draw(t, "burst")
		l := newLimiter(rate, burst)
		now := l.epoch
		var passed []time.Time
		for _, ms := range rapid.SliceOfN(rapid.IntRange(0, 300), 1, 100).Draw(t, "gaps") {
			now = now.Add(time.Duration(ms) * time.Millisecond)
			wait := l.take(7, now)
			if wait == 0 {
				passed = append(passed, now)
			} else if l.take(7, now.Add(wait-1)) == 0 {
				t.Fatal("let through before the time it named")
			}
		}
		for i := range passed {
			for j := i; j < len(passed); j++ {
				allowed := float64(burst) + rate*passed[j].Sub(passed[i]).Seconds()
				if float64(j-i+1) > allowed+1e-3 {
					t.Fatalf("%d passed in %v, allowed %.3f", j-i+1, passed[j].Sub(passed[i]), allowed)
				}
			}
		}
	})
}

func TestRateLimitForgetsTheLeastInDebt(t *testing.T) {
	l := newLimiter(1, 100)
	now := l.epoch.Add(time.Second)
	key := func(i int) uint64 { return uint64(i) << 32 } // all in one set
	for range 100 {
		l.take(key(1), now)
	}
	if l.take(key(1), now) == 0 {
		t.Fatal("not limited")
	}
	for i := 2; i < 100; i++ {
		l.take(key(i), now)
	}
	if l.take(key(1), now) == 0 {
		t.Error("a crowd of others freed the one in debt")
	}
}

func TestRateLimitRefuses(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{``, "wants per_second, in_flight or both"},
		{`{ by: route }`, "wants per_second, in_flight or both"},
		{`{ in_flight: 5, burst: 5 }`, "burst is for per_second"},
		{`{ in_flight: 0 }`, "in_flight"},
		{`{ per_second: 0 }`, "between 0.001 and 1000000"},
		{`{ per_second: -1 }`, "between 0.001 and 1000000"},
		{`{ per_second: 5, burst: -1 }`, "burst is -1"},
		{`{ per_second: 5, by: cookie }`, `1:22: LB`},
		{`{ per_second: 5, by: "header:a b" }`, "not a field name"},
		{`{ per_second: 5, burts: 1 }`, `burst`},
	} {
		_, err := rateLimit(node(t, c.config))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}

func BenchmarkRateLimit(b *testing.B) {
	f, err := rateLimit(node(b, `{ per_second: 1000000, burst: 1000000 }`))
	if err != nil {
		b.Fatal(err)
	}
	s := &l7.Session{Start: time.Now(), Request: &l7.Request{Client: netip.MustParseAddrPort("10.0.0.1:1")}}
	b.ReportAllocs()
	for b.Loop() {
		s.Start = s.Start.Add(time.Microsecond)
		f.Request(s)
	}
}
