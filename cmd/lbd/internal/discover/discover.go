// Package discover finds backends that a configuration does not list by
// address: it asks DNS, or reads a file, again and again.
//
// A Set follows sources and keeps the last good answer of each: a source that
// fails, or finds nothing, takes no backend away. It reports changes only. All
// methods of Set may be called concurrently. A new kind of source is a file
// with a Source in it, a field of lb.Discovery and a line in open. Start at
// Source and Set.
package discover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
)

// Source is a place where backends are found. One goroutine at a time asks it.
type Source interface {
	// Find asks once. No backends and no error is an answer: there are none.
	Find(context.Context) (Answer, error)
}

// Answer is what a source found.
type Answer struct {
	Backends []lb.Backend
	Good     time.Duration // ask again after it
}

// open makes the source that d names.
func open(d lb.Discovery) Source {
	switch {
	case d.DNS != "":
		return newHosts(d)
	case d.SRV != "":
		return newRecords(d)
	}
	return &file{path: d.File}
}

// Bounds of asking.
const (
	atOnce    = 16               // questions in flight
	askTime   = 10 * time.Second // one question, with all its tries
	soonest   = 200 * time.Millisecond
	latest    = time.Hour
	backOff   = time.Second // after a first failure, doubled by each further one
	backOffTo = 30 * time.Second
)

// Options configures a Set. The zero value is usable.
type Options struct {
	// Note is told when a source begins to fail and when it is mended. It must
	// not block. Nil: nobody is told.
	Note func(lb.Event)
	Open func(lb.Discovery) Source // nil: what package discover has
}

// Set follows sources. Make one with New; Close ends it.
type Set struct {
	note    func(lb.Event)
	open    func(lb.Discovery) Source
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	places  chan struct{} // a token per question in flight
	changed chan struct{}

	mu       sync.Mutex // guards what follows, and every watch's fields
	watches  map[string]*watch
	recalled map[string][]lb.Backend // of an earlier life, until the source answers
}

// watch is one source that is followed.
type watch struct {
	name   string
	source Source
	stop   context.CancelFunc
	asked  chan struct{} // closed after the first question

	last     []lb.Backend // sorted; the last good answer
	answered time.Time    // when it came; zero: never in this life
	err      error        // of the last question
	failing  time.Time    // since when
	fails    int          // in a row
	asks     uint64
	failures uint64
}

// Report is what is known of a source.
type Report struct {
	Source   string // lb.Discovery.String
	Backends int    // of the last good answer
	Answered time.Time
	Failing  time.Time // since when; zero: the last question was answered
	Err      error     // why
	Asks     uint64
	Failures uint64
}

// New makes a Set that follows nothing yet.
func New(o Options) *Set {
	if o.Note == nil {
		o.Note = func(lb.Event) {}
	}
	if o.Open == nil {
		o.Open = open
	}
	s := &Set{note: o.Note, open: o.Open, places: make(chan struct{}, atOnce), changed: make(chan struct{}, 1), watches: map[string]*watch{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close stops asking and waits for the questions in flight.
func (s *Set) Close() {
	s.cancel()
	s.running.Wait()
}

// Recall hands over the answers of an earlier life, by source: they are good
// until the source answers.
func (s *Set) Recall(found map[string][]lb.Backend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recalled = found
}

// Follow replaces what is followed. A source that was followed before keeps
// its answer.
func (s *Set) Follow(want []lb.Discovery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[string]bool{}
	for _, d := range want {
		wanted[d.String()] = true
		s.watch(d)
	}
	for name, w := range s.watches {
		if !wanted[name] {
			w.stop()
			delete(s.watches, name)
		}
	}
}

// Await follows these sources, too, and returns when each was asked once or
// ctx ends. The next Follow decides which of them stay.
func (s *Set) Await(ctx context.Context, want []lb.Discovery) {
	s.mu.Lock()
	var asked []chan struct{}
	for _, d := range want {
		asked = append(asked, s.watch(d).asked)
	}
	s.mu.Unlock()
	for _, a := range asked {
		select {
		case <-a:
		case <-ctx.Done():
			return
		}
	}
}

// watch finds or starts the watch of a source; call it with mu held.
func (s *Set) watch(d lb.Discovery) *watch {
	name := d.String()
	if w := s.watches[name]; w != nil {
		return w
	}
	ctx, stop := context.WithCancel(s.ctx)
	w := &watch{name: name, source: s.open(d), stop: stop, asked: make(chan struct{}), last: s.recalled[name]}
	s.watches[name] = w
	s.running.Go(func() { s.runWatch(ctx, w) })
	return w
}

// Found is the last good answer of a source; nil: there was none.
func (s *Set) Found(d lb.Discovery) []lb.Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watches[d.String()]; w != nil {
		return w.last
	}
	return s.recalled[d.String()]
}

// Changed holds a token after an answer differed from the one before, or a
// source began to fail or was mended; tokens coalesce.
func (s *Set) Changed() <-chan struct{} { return s.changed }

// Reports says how the sources are, by name.
func (s *Set) Reports() []Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Report, 0, len(s.watches))
	for _, w := range s.watches {
		all = append(all, Report{
			Source: w.name, Backends: len(w.last), Answered: w.answered,
			Failing: w.failing, Err: w.err, Asks: w.asks, Failures: w.failures,
		})
	}
	slices.SortFunc(all, func(a, b Report) int { return strings.Compare(a.Source, b.Source) })
	return all
}

// runWatch asks a source until ctx ends.
func (s *Set) runWatch(ctx context.Context, w *watch) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ; first = false {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		answer, err := s.ask(ctx, w)
		if ctx.Err() != nil {
			return
		}
		timer.Reset(s.learn(w, answer, err))
		if first {
			close(w.asked)
		}
	}
}

func (s *Set) ask(ctx context.Context, w *watch) (Answer, error) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answer, err := w.source.Find(ctx)
	if err == nil && len(answer.Backends) > lb.MaxBackends {
		err = fmt.Errorf("%d backends; a pool has at most %d", len(answer.Backends), lb.MaxBackends)
	}
	return answer, err
}

// learn takes an answer or a failure in; it says when to ask again.
func (s *Set) learn(w *watch, answer Answer, err error) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.asks++
	if err != nil {
		return s.failed(w, err)
	}
	mended := w.err != nil
	found := tidy(answer.Backends)
	differs := !slices.Equal(found, w.last)
	w.last, w.answered, w.err, w.failing, w.fails = found, time.Now(), nil, time.Time{}, 0
	if mended {
		s.note(lb.Event{Kind: "discover.mended", Subject: w.name})
	}
	if mended || differs {
		s.signal()
	}
	// Spread, so that many sources are not asked all at once for ever.
	return min(max(answer.Good, soonest), latest) + rand.N(answer.Good/10+1)
}

// failed keeps the last answer. Call it with mu held.
func (s *Set) failed(w *watch, err error) time.Duration {
	w.failures++
	if w.err == nil {
		w.failing = time.Now()
		s.note(lb.Event{Kind: "discover.failed", Subject: w.name, Detail: err.Error()})
	}
	if w.err == nil || w.err.Error() != err.Error() {
		s.signal()
	}
	w.err = err
	pause := min(backOff<<min(w.fails, 10), backOffTo)
	w.fails++
	return pause + rand.N(pause/4)
}

// tidy sorts an answer and keeps one backend per address, so that equal
// answers are equal: DNS servers turn theirs.
func tidy(found []lb.Backend) []lb.Backend {
	out := slices.Clone(found)
	slices.SortStableFunc(out, func(a, b lb.Backend) int { return strings.Compare(a.Address, b.Address) })
	return slices.CompactFunc(out, func(a, b lb.Backend) bool { return a.Address == b.Address })
}

func (s *Set) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // a token is already there
	}
}

// errNothing is an answer without any backend, from a source in which that is
// rather a mistake than a wish.
var errNothing = errors.New("it has no address")
