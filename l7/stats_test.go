package l7

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/cirque-lb/lb"
)

func TestStatsAddUpTheThreads(t *testing.T) {
	a, b := new(tally), new(tally)
	for _, t := range []*tally{a, b} {
		o := typicalOutcome()
		t.request(o)
		o.status, o.total, o.bytesOut = 503, 20*time.Millisecond, 10
		o.reason, o.source, o.made = lb.NoHealthyBackend, FromProxy, true
		t.request(o)
		t.retry(lb.ConnectFailed)
	}
	b.request(&outcome{listener: "web", status: 0, reason: lb.ClientAbort, source: FromClient})
	want := `lbd_requests_total{listener=web,pool=,code_class=none} 1
lbd_request_body_bytes_total{listener=web,pool=} 0
lbd_response_body_bytes_total{listener=web,pool=} 0
lbd_requests_total{listener=web,pool=shop,code_class=2xx} 2
lbd_requests_total{listener=web,pool=shop,code_class=5xx} 2
lbd_request_body_bytes_total{listener=web,pool=shop} 12
lbd_response_body_bytes_total{listener=web,pool=shop} 2068
lbd_request_duration_seconds{listener=web,pool=} 0 of 1, 0.00025:1 60:1
lbd_request_duration_seconds{listener=web,pool=shop} 0.042469134 of 4, 0.00025:0 60:4
lbd_upstream_first_byte_seconds{pool=shop} 0.004 of 4, 0.00025:0 60:4
lbd_generated_responses_total{reason=no_healthy_backend} 2
lbd_request_failures_total{reason=client_abort,source=client} 1
lbd_request_failures_total{reason=no_healthy_backend,source=proxy} 2
lbd_retries_total{reason=connect_failed} 2
`
	var got strings.Builder
	for _, s := range samples([]*tally{a, b}) {
		got.WriteString(describe(s))
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

func describe(s lb.Sample) string {
	var labels []string
	for i := 0; i < len(s.Labels); i += 2 {
		labels = append(labels, s.Labels[i]+"="+s.Labels[i+1])
	}
	line := s.Name + "{" + strings.Join(labels, ",") + "} " + fmt.Sprint(s.Value)
	if len(s.Buckets) > 0 {
		first, last := s.Buckets[0], s.Buckets[len(s.Buckets)-1]
		line += fmt.Sprintf(" of %d, %v:%d %v:%d", s.Count, first.Le, first.N, last.Le, last.N)
	}
	return line + "\n"
}

func TestMetricNamesPassPromlint(t *testing.T) {
	p, err := New(Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.closeLoops()
	o := typicalOutcome()
	o.reason, o.made = lb.NoRoute, true
	p.threads[0].tally.request(o)
	p.threads[0].tally.retry(lb.ConnectFailed)
	p.threads[0].tally.panicked("headers")
	var text strings.Builder
	seen := map[string]bool{}
	for _, s := range p.Stats().Samples {
		kind := "counter"
		switch {
		case s.Gauge:
			kind = "gauge"
		case len(s.Buckets) > 0:
			kind = "histogram"
		}
		if !seen[s.Name] {
			seen[s.Name] = true
			fmt.Fprintf(&text, "# HELP %s x\n# TYPE %s %s\n", s.Name, s.Name, kind)
		}
		if kind == "histogram" {
			fmt.Fprintf(&text, "%s_bucket{le=\"+Inf\"} %d\n%s_sum %v\n%s_count %d\n", s.Name, s.Count, s.Name, s.Value, s.Name, s.Count)
			continue
		}
		for i := 0; i < len(s.Labels); i += 2 {
			if s.Labels[i] == "" || strings.ToLower(s.Labels[i]) != s.Labels[i] {
				t.Errorf("%s has label %q", s.Name, s.Labels[i])
			}
		}
		fmt.Fprintf(&text, "%s{n=\"%d\"} %v\n", s.Name, text.Len(), s.Value)
	}
	problems, err := promlint.New(strings.NewReader(text.String())).Lint()
	if err != nil || len(problems) > 0 || len(seen) < 10 {
		t.Errorf("%v, %v in\n%s", err, problems, text.String())
	}
}

func TestASampleIsReadWhileTheLoopCounts(t *testing.T) {
	a := new(tally)
	var writer sync.WaitGroup
	writer.Go(func() {
		o := typicalOutcome()
		for i := range 2000 {
			o.pool = fmt.Sprint("pool-", i%50)
			a.request(o)
		}
	})
	for range 50 {
		samples([]*tally{a})
	}
	writer.Wait()
	sum := 0.0
	for _, s := range samples([]*tally{a}) {
		if s.Name == "lbd_requests_total" {
			sum += s.Value
		}
	}
	if sum != 2000 {
		t.Errorf("counted %v of 2000", sum)
	}
}

func TestPoolsThatComeAndGoAreBounded(t *testing.T) {
	a := new(tally)
	o := typicalOutcome()
	for i := range 2 * maxSeries {
		o.pool = fmt.Sprint("pool-", i)
		a.request(o)
	}
	if len(a.series) > maxSeries+1 {
		t.Errorf("%d series", len(a.series))
	}
}

func TestHistogramBoundsAreInclusive(t *testing.T) {
	var h histogram
	for _, d := range []time.Duration{-1, 0, 250 * time.Microsecond, 250*time.Microsecond + 1, time.Minute, time.Hour} {
		h.observe(d)
	}
	var s summed
	s.add(&h)
	got := s.sample("x")
	if got.Buckets[0].N != 3 || got.Buckets[1].N != 4 || got.Buckets[len(got.Buckets)-1].N != 5 || got.Count != 6 {
		t.Errorf("got %+v", got)
	}
}

func BenchmarkTally(b *testing.B) {
	var t tally
	o := typicalOutcome()
	b.ReportAllocs()
	for b.Loop() {
		t.request(o)
	}
}
