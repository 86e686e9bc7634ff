package main

import (
	"testing"
	"time"
)

func TestATargetIsJudgedByMedians(t *testing.T) {
	results := map[string][]cost{
		"relay":   {{calls: 4.3}},
		"lbd":     {{total: 9000, user: 2100, calls: 4.5}, {total: 10_000, user: 1900, calls: 4.3}, {total: 90_000, user: 2000, calls: 4.39}},
		"nginx":   {{total: 12_000, user: 3000}},
		"haproxy": {{total: 9000, user: 4000}},
	}
	own := median(results["lbd"])
	for _, c := range []struct {
		name     string
		target   target
		measured string
		held     bool
	}{
		{"a ratio that holds", target{total, "nginx", 1, 0}, "0.83 x nginx", true},
		{"the better peer", target{total, best, 1, 0}, "1.11 x haproxy", false},
		{"only so many microseconds", target{user, "", 0, 2}, "2.00 us", true},
		{"a user part", target{user, "nginx", 0.6, 0}, "0.67 x nginx", false},
		{"calls and a few more", target{calls, "relay", 1, 0.1}, "4.39, relay's 4.30", true},
		{"nothing counted", target{calls, "nginx", 1, 0.1}, "not counted: needs root and perf", false},
		{"a peer that is not there", target{total, "envoy", 1, 0}, "no envoy", false},
	} {
		if measured, _, held := c.target.judge(own, results); measured != c.measured || held != c.held {
			t.Errorf("%s: %q, held %v, want %q, %v", c.name, measured, held, c.measured, c.held)
		}
	}
	if own.total != 10*time.Microsecond {
		t.Errorf("median of 9, 10 and 90 us: %v", own.total)
	}
}
