package worker

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/cirque-lb/lb"
)

// maxRetired bounds how many series of workers that are gone are kept.
const maxRetired = 20000

// saveInterval is how much counting a crash of supervisor and worker together
// may lose.
const saveInterval = 10 * time.Second

// totals is the file that lets counters survive: what dead workers counted,
// and what each living one had when last asked.
type totals struct {
	Retired lb.Stats         `json:"retired"`
	Living  map[int]lb.Stats `json:"living"` // by pid
}

// Stats sums what all workers counted, those that are gone included.
func (f *Fleet) Stats() lb.Stats {
	_ = each(f.everybody(), func(m *member) error {
		f.mu.Lock()
		mute := m.mute
		f.mu.Unlock()
		if !mute { // else its last totals do
			f.pull(m)
		}
		return nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := newSum()
	sum.add(f.retired)
	for _, m := range f.present() {
		sum.add(m.stats)
	}
	return sum.stats
}

// Refused lists the last malformed requests of all workers, newest first. A
// worker that does not answer, or is of an lbd that does not know, says nothing.
func (f *Fleet) Refused() []lb.Refusal {
	var mu sync.Mutex // guards all
	all := []lb.Refusal{}
	_ = each(f.everybody(), func(m *member) error {
		f.mu.Lock()
		mute := m.mute
		f.mu.Unlock()
		var some []lb.Refusal
		if mute {
			return nil
		}
		if _, err := m.conn.quick(f.ctx, opRefused, nil, nil, &some); err != nil {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, some...)
		return nil
	})
	slices.SortStableFunc(all, func(a, b lb.Refusal) int { return b.Time.Compare(a.Time) })
	return all
}

// present lists all processes; call it with mu held.
func (f *Fleet) present() []*member {
	out := slices.Clone(f.leaving)
	if f.crew == nil {
		return out
	}
	for _, s := range f.crew.seats {
		if s.member != nil {
			out = append(out, s.member)
		}
	}
	return out
}

// sum adds up what workers report. Counters and histograms of the same name
// and labels become one.
type sum struct {
	stats    lb.Stats
	samples  map[string]int
	backends map[lb.BackendID]int
}

func newSum() *sum { return &sum{samples: map[string]int{}, backends: map[lb.BackendID]int{}} }

func (s *sum) add(o lb.Stats) {
	for _, x := range o.Samples {
		s.sample(x)
	}
	for _, b := range o.Backends {
		s.backend(b)
	}
	s.stats.Connections += o.Connections
	s.stats.Requests += o.Requests
}

func (s *sum) sample(x lb.Sample) {
	key := x.Name + "\x00" + strings.Join(x.Labels, "\x00")
	i, ok := s.samples[key]
	if !ok {
		s.samples[key] = len(s.stats.Samples)
		x.Buckets = slices.Clone(x.Buckets)
		s.stats.Samples = append(s.stats.Samples, x)
		return
	}
	have := &s.stats.Samples[i]
	have.Value += x.Value
	have.Count += x.Count
	have.Buckets = addBuckets(have.Buckets, x.Buckets)
}

// addBuckets adds cumulative buckets with the same bounds; those of a version
// with other bounds are given up, sum and count stay right.
func addBuckets(a, b []lb.Bucket) []lb.Bucket {
	if len(a) != len(b) {
		return a
	}
	for i := range a {
		if a[i].Le != b[i].Le {
			return a
		}
	}
	for i := range a {
		a[i].N += b[i].N
	}
	return a
}

func (s *sum) backend(b lb.BackendLoad) {
	i, ok := s.backends[b.ID]
	if !ok {
		s.backends[b.ID] = len(s.stats.Backends)
		s.stats.Backends = append(s.stats.Backends, b)
		return
	}
	have := &s.stats.Backends[i]
	have.Active += b.Active
	have.Connections += b.Connections
	have.Requests += b.Requests
	have.Failures += b.Failures
	have.Latency = have.Latency.Add(b.Latency)
	if b.Ejected != nil && (have.Ejected == nil || b.Ejected.Until.After(have.Ejected.Until)) {
		have.Ejected = b.Ejected
	}
}

// retireInto adds a dead worker's counters to those of others: what it had
// open is gone with it.
func retireInto(retired *lb.Stats, last lb.Stats) {
	s := newSum()
	s.add(*retired)
	for _, x := range last.Samples {
		if !x.Gauge {
			s.sample(x)
		}
	}
	for _, b := range last.Backends {
		b.Active, b.Connections, b.Ejected = 0, 0, nil
		s.backend(b)
	}
	s.stats.Samples = s.stats.Samples[:min(len(s.stats.Samples), maxRetired)]
	s.stats.Backends = s.stats.Backends[:min(len(s.stats.Backends), maxRetired)]
	*retired = s.stats
}

func (f *Fleet) totalsPath() string { return filepath.Join(f.options.RunDir, "totals.json") }

// runSave keeps the file of totals fresh.
func (f *Fleet) runSave() {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.saveStats()
		case <-f.ctx.Done():
			return
		}
	}
}

func (f *Fleet) saveStats() {
	f.saving.Lock()
	defer f.saving.Unlock()
	f.mu.Lock()
	t := totals{Retired: f.retired, Living: map[int]lb.Stats{}}
	for _, m := range f.present() {
		t.Living[m.pid] = m.stats
	}
	f.mu.Unlock()
	text, err := json.Marshal(t)
	if err == nil {
		err = renameio.WriteFile(f.totalsPath(), text, 0o600, renameio.WithTempDir(f.options.RunDir))
	}
	if err != nil {
		f.options.Log.Warn("keep the workers' totals", "err", err)
	}
}

// recount takes up the totals of an earlier supervisor: those of workers that
// have gone since are retired, the others are asked again soon.
func (f *Fleet) recount(all []found) {
	text, err := os.ReadFile(f.totalsPath())
	if err != nil {
		return // a first start
	}
	var t totals
	if err := json.Unmarshal(text, &t); err != nil {
		f.options.Log.Warn("the workers' totals are lost", "err", err)
		return
	}
	f.retired = t.Retired
	for _, w := range all {
		w.member.stats = t.Living[w.member.pid]
		delete(t.Living, w.member.pid)
	}
	for _, gone := range t.Living {
		retireInto(&f.retired, gone)
	}
}
