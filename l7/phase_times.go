package l7

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb"
)

// timeEvery: the phases of one request in so many are timed, and stand for the
// others. Reading the clock twice for each would cost more than a filter that
// sets a header.
const timeEvery = 64

// phase names one of a Filter's.
type phase uint8

const (
	phaseRequest phase = iota
	phaseRequestBody
	phasePick
	phaseUpstream
	phaseRetry
	phaseResponse
	phaseResponseBody
	phaseFail
	phaseLog
	phaseCount
)

var phaseNames = [phaseCount]string{"request", "request_body", "pick", "upstream", "retry", "response", "response_body", "fail", "log"}

// phaseTimes is what the phases of all filters of one name took, in all
// generations and threads.
type phaseTimes [phaseCount]struct{ calls, nanoseconds atomic.Int64 }

// phaseTimes finds those of a filter, or makes them.
func (p *Proxy) phaseTimes(filter string) *phaseTimes {
	p.mu.Lock()
	defer p.mu.Unlock()
	return entry(p.filters, filter)
}

// clock is deferred with the time at which a phase began.
func (x *exchange) clock(f *Filter, p phase, began time.Time) {
	t := &f.times[p]
	t.calls.Add(timeEvery)
	t.nanoseconds.Add(timeEvery * int64(time.Since(began)))
}

// sampled reports whether this request's phases are timed.
func (t *thread) sampled() bool {
	t.sample++
	return t.sample%timeEvery == 0
}

// phaseSamples are the metrics of the filters; p.mu is held by nobody.
func (p *Proxy) phaseSamples() (out []lb.Sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.filters)) {
		for i := range p.filters[name] {
			t := &p.filters[name][i]
			calls := t.calls.Load()
			if calls == 0 {
				continue
			}
			labels := []string{"filter", name, "phase", phaseNames[i]}
			out = append(out,
				lb.Sample{Name: "lbd_filter_calls_total", Labels: labels, Value: float64(calls)},
				lb.Sample{Name: "lbd_filter_seconds_total", Labels: labels, Value: float64(t.nanoseconds.Load()) / 1e9})
		}
	}
	return out
}
