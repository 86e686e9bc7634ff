package l7

import (
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb"
)

// tally is what one thread counts about requests. Only its loop writes, anybody
// may read: values are atomic, and series is written only with mu held, so that
// the loop reads it without.
type tally struct {
	_      [64]byte // threads share no cache line
	mu     sync.Mutex
	last   *series // the series counted last: nearly always the next one, too
	series map[seriesKey]*series
	events map[eventKey]uint64 // guarded by mu
	_      [64]byte
}

// seriesKey is what requests are told apart by.
type seriesKey struct{ listener, pool string }

// series counts the requests of one listener and pool.
type series struct {
	key       seriesKey
	classes   [len(codeClasses)]atomic.Uint64
	bytesIn   atomic.Uint64
	bytesOut  atomic.Uint64
	total     histogram
	firstByte histogram
}

// codeClasses are the values of code_class; the first is of requests that got
// no response.
var codeClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"}

// maxSeries bounds the series a thread keeps; pools that come and go with many
// configurations end up in one of the name "other".
const maxSeries = 4096

// eventKey names a counter with at most two labels.
type eventKey struct{ name, label, value, label2, value2 string }

// request counts a request that is over.
func (t *tally) request(o *outcome) {
	s := t.last
	if s == nil || s.key.pool != o.pool || s.key.listener != o.listener {
		s = t.of(seriesKey{o.listener, o.pool})
		t.last = s
	}
	s.classes[min(max(o.status, 0)/100, len(codeClasses)-1)].Add(1)
	if o.bytesIn > 0 {
		s.bytesIn.Add(uint64(o.bytesIn))
	}
	s.bytesOut.Add(uint64(o.bytesOut))
	s.total.observe(o.total)
	if o.firstByte > 0 {
		s.firstByte.observe(o.firstByte)
	}
	if o.reason == "" {
		return
	}
	if o.made {
		t.event("lbd_generated_responses_total", "reason", string(o.reason), "", "")
	}
	t.event("lbd_request_failures_total", "reason", string(o.reason), "source", o.source.String())
}

// retry counts an attempt that was followed by another.
func (t *tally) retry(reason lb.Reason) {
	t.event("lbd_retries_total", "reason", string(reason), "", "")
}

// panicked counts a filter's panic.
func (t *tally) panicked(filter string) {
	t.event("lbd_filter_panics_total", "filter", filter, "", "")
}

// of finds the series of a key, or makes it. The key's strings may belong to a
// request, so a new one has its own.
func (t *tally) of(key seriesKey) *series {
	if s := t.series[key]; s != nil {
		return s
	}
	if len(t.series) >= maxSeries {
		key.pool = "other"
		if s := t.series[key]; s != nil {
			return s
		}
	}
	key = seriesKey{strings.Clone(key.listener), strings.Clone(key.pool)}
	s := &series{key: key}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.series == nil {
		t.series = map[seriesKey]*series{}
	}
	t.series[key] = s
	return s
}

// event counts something rare. Unlike the rest it may be called off the loop:
// filters that block panic there.
func (t *tally) event(name, label, value, label2, value2 string) {
	key := eventKey{name, label, value, label2, value2}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.events == nil {
		t.events = map[eventKey]uint64{}
	}
	if len(t.events) >= maxSeries && t.events[key] == 0 {
		return // somebody makes names up
	}
	t.events[key]++
}

// bounds of the histograms' buckets, in seconds.
var bounds = lb.TimingBounds

var boundDurations = func() (d [len(bounds)]time.Duration) {
	for i, b := range bounds {
		d[i] = time.Duration(b * float64(time.Second))
	}
	return d
}()

// histogram counts durations per bucket; the last one is for all above.
type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	sum     atomic.Uint64 // nanoseconds
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(boundDurations) && d > boundDurations[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(uint64(max(d, 0)))
}

// summed is the sum of several threads' histograms.
type summed struct {
	buckets [len(bounds) + 1]uint64
	sum     uint64
}

func (s *summed) add(h *histogram) {
	for i := range h.buckets {
		s.buckets[i] += h.buckets[i].Load()
	}
	s.sum += h.sum.Load()
}

func (s *summed) sample(name string, labels ...string) lb.Sample {
	out := lb.Sample{Name: name, Labels: labels, Value: float64(s.sum) / 1e9, Buckets: make([]lb.Bucket, len(bounds))}
	for i := range s.buckets {
		out.Count += s.buckets[i]
		if i < len(bounds) {
			out.Buckets[i] = lb.Bucket{Le: bounds[i], N: out.Count}
		}
	}
	return out
}

// samples sums the threads' tallies, in a fixed order.
func samples(tallies []*tally) []lb.Sample {
	requests := map[seriesKey]*[len(codeClasses)]uint64{}
	bytes := map[seriesKey]*[2]uint64{}
	totals, firstBytes := map[seriesKey]*summed{}, map[string]*summed{}
	events := map[eventKey]uint64{}
	for _, t := range tallies {
		t.mu.Lock()
		for key, s := range t.series {
			s.addTo(entry(requests, key), entry(bytes, key))
			entry(totals, key).add(&s.total)
			entry(firstBytes, key.pool).add(&s.firstByte)
		}
		for key, n := range t.events {
			events[key] += n
		}
		t.mu.Unlock()
	}
	var out []lb.Sample
	for _, key := range slices.SortedFunc(maps.Keys(requests), compareSeries) {
		out = append(out, requestSamples(key, requests[key], bytes[key])...)
	}
	for _, key := range slices.SortedFunc(maps.Keys(totals), compareSeries) {
		out = append(out, totals[key].sample("lbd_request_duration_seconds", "listener", key.listener, "pool", key.pool))
	}
	for _, pool := range slices.Sorted(maps.Keys(firstBytes)) {
		if s := firstBytes[pool]; s.sum > 0 {
			out = append(out, s.sample("lbd_upstream_first_byte_seconds", "pool", pool))
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(events), compareEvents) {
		out = append(out, key.sample(events[key]))
	}
	return out
}

func entry[K comparable, V any](m map[K]*V, k K) *V {
	if m[k] == nil {
		m[k] = new(V)
	}
	return m[k]
}

func (s *series) addTo(classes *[len(codeClasses)]uint64, bytes *[2]uint64) {
	for i := range classes {
		classes[i] += s.classes[i].Load()
	}
	bytes[0] += s.bytesIn.Load()
	bytes[1] += s.bytesOut.Load()
}

func requestSamples(key seriesKey, classes *[len(codeClasses)]uint64, bytes *[2]uint64) []lb.Sample {
	labels := []string{"listener", key.listener, "pool", key.pool}
	var out []lb.Sample
	for i, n := range classes {
		if n > 0 {
			out = append(out, lb.Sample{Name: "lbd_requests_total", Value: float64(n),
				Labels: append(slices.Clone(labels), "code_class", codeClasses[i])})
		}
	}
	return append(out,
		lb.Sample{Name: "lbd_request_body_bytes_total", Labels: labels, Value: float64(bytes[0])},
		lb.Sample{Name: "lbd_response_body_bytes_total", Labels: labels, Value: float64(bytes[1])})
}

func (k eventKey) sample(n uint64) lb.Sample {
	labels := []string{k.label, k.value}
	if k.label2 != "" {
		labels = append(labels, k.label2, k.value2)
	}
	return lb.Sample{Name: k.name, Labels: labels, Value: float64(n)}
}

func compareSeries(a, b seriesKey) int {
	return strings.Compare(a.listener+"\x00"+a.pool, b.listener+"\x00"+b.pool)
}

func compareEvents(a, b eventKey) int {
	return strings.Compare(strings.Join([]string{a.name, a.value, a.value2}, "\x00"), strings.Join([]string{b.name, b.value, b.value2}, "\x00"))
}

// samples are all metrics of the proxy but for its backends.
func (p *Proxy) samples() []lb.Sample {
	var tallies []*tally
	var accepts, refused, dials, reuses, takeovers, stale, slow, rests uint64
	for _, t := range p.threads {
		tallies = append(tallies, &t.tally)
		accepts += t.counts.accepts.Load()
		refused += t.counts.refused.Load()
		dials += t.counts.dials.Load()
		reuses += t.counts.reuses.Load()
		takeovers += t.counts.takeovers.Load()
		stale += t.counts.stale.Load()
		slow += t.loop.SlowTurns()
		rests += t.loop.Rests()
	}
	dropped := uint64(0)
	if p.access != nil {
		dropped = p.access.dropped()
	}
	return append(append(samples(tallies), slices.Concat(p.openSamples(), p.phaseSamples())...),
		counter("lbd_accepted_connections_total", accepts),
		counter("lbd_refused_connections_total", refused),
		counter("lbd_accept_pauses_total", rests),
		lb.Sample{Name: "lbd_worker_memory_bytes", Gauge: true, Value: float64(p.memory.used.Load())},
		lb.Sample{Name: "lbd_worker_memory_pressure", Gauge: true, Value: float64(p.memory.level.Load())},
		counter("lbd_upstream_connections_opened_total", dials),
		counter("lbd_upstream_connections_reused_total", reuses),
		counter("lbd_upstream_connections_taken_over_total", takeovers),
		counter("lbd_upstream_connections_stale_total", stale),
		counter("lbd_slow_turns_total", slow),
		lb.Sample{Name: "lbd_worker_goroutines", Gauge: true, Value: float64(runtime.NumGoroutine())},
		counter("lbd_access_log_dropped_lines_total", dropped))
}

// openSamples are the client connections that are open, by listener.
func (p *Proxy) openSamples() []lb.Sample {
	var out []lb.Sample
	p.open.Range(func(name, n any) bool {
		out = append(out, lb.Sample{Name: "lbd_connections", Labels: []string{"listener", name.(string)}, Gauge: true, Value: float64(n.(*atomic.Int64).Load())})
		return true
	})
	slices.SortFunc(out, func(a, b lb.Sample) int { return strings.Compare(a.Labels[1], b.Labels[1]) })
	return out
}

// timing is what a histogram has counted; nil: nothing.
func (h *histogram) timing() *lb.Timing {
	t := lb.Timing{Counts: make([]uint64, len(h.buckets)), Sum: float64(h.sum.Load()) / 1e9}
	any := false
	for i := range h.buckets {
		t.Counts[i] = h.buckets[i].Load()
		any = any || t.Counts[i] > 0
	}
	if !any {
		return nil
	}
	return &t
}

func counter(name string, n uint64) lb.Sample { return lb.Sample{Name: name, Value: float64(n)} }

// record is told of every request that is over, once.
func (t *thread) record(x *exchange) {
	if x.copyOf != nil {
		t.recordCopy(x)
		return
	}
	var o outcome
	x.count(&o)
	x.thread.flight.end(x.flown, o.status, o.total)
	x.flown = 0
	if t.proxy.access != nil {
		x.tell(&o)
	}
	t.write(&o)
}

// write counts an outcome and writes its line.
func (t *thread) write(o *outcome) {
	t.tally.request(o)
	if log := t.proxy.access; log != nil {
		log.record(t.index, o)
	}
}

// count fills in what the statistics want to know.
func (x *exchange) count(o *outcome) {
	s := &x.session
	o.listener, o.status, o.made = s.Request.Listener, x.status, x.made
	o.bytesIn, o.bytesOut, o.total = x.bytesIn, x.bytesOut, x.thread.loop.Now()-x.began
	if s.Pool != nil {
		o.pool = s.Pool.Name()
	}
	if s.Backend != nil && x.answered > x.sent {
		o.firstByte = x.answered - x.sent
	}
	switch e := x.failure; {
	case e != nil:
		o.reason, o.source, o.err = e.Reason, e.Source, e.Err
	case x.made && !(s.Route != nil && (s.Route.Config.Redirect != nil || s.Route.Config.Respond != nil)):
		o.reason = lb.FilterAnswer
	}
}

// tell fills in the rest, which only the access log wants.
func (x *exchange) tell(o *outcome) {
	s, req := &x.session, x.session.Request
	o.start, o.client, o.method, o.host, o.target, o.version = s.Start, req.Client, req.Method, req.Host, req.Target, req.Version
	o.attempts, o.requestID = s.Attempt, req.Header.Get("x-request-id")
	if x.thread.proxy.access.combined.Load() {
		o.referer, o.agent = req.Header.Get("referer"), req.Header.Get("user-agent")
	}
	if s.Route != nil {
		o.route = s.Route.Name
	}
	if s.Backend != nil {
		o.backend = s.Backend.Address()
		if x.sent > x.dialed && !x.reused {
			o.connect = x.sent - x.dialed
		}
	}
}
