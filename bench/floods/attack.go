package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

// attack is one way to make a proxy work for nothing. Either one connection
// after the other sends frames (frame), or many are held at once (hold).
type attack struct {
	name  string
	frame func(l *rig.Link, i int) error
	// hold opens one connection, waits for its end, but not longer than until,
	// and says how it was.
	hold func(r *rig.Running, until time.Time, sent *atomic.Int64) string
	few  bool // hold a tenth of the connections, of 100 streams each
}

// heldMemory is what a proxy may keep for a stream or connection that takes
// nothing: it cannot know before it has read a part of the answer.
const heldMemory = 64 << 10

// result is what became of it.
type result struct {
	ends           ends
	held           int64 // connections or streams that take nothing
	sent           int64
	grew, stays    int64
	calm, attacked innocence
}

// late says that innocent clients felt the attack. It fails nothing: where
// load and proxy share the cores, compare it with the other proxies' rows.
func (r *result) late() string {
	if r.attacked.p99 > max(3*r.calm.p99, 20*time.Millisecond) {
		return "late"
	}
	return ""
}

// wrong says in what the proxy is not what we want it to be.
func (r *result) wrong() string {
	var bad []string
	if r.ends.n["no end"] > 0 {
		bad = append(bad, "no end")
	}
	// The floor is what a Go heap breathes by between two collections.
	if r.grew > max(2*r.sent, 32<<20, r.held*heldMemory) {
		bad = append(bad, "memory")
	}
	if r.attacked.failed > 0 {
		bad = append(bad, "failures")
	}
	return strings.Join(bad, ", ")
}

// ends counts how connections ended.
type ends struct {
	mu sync.Mutex
	n  map[string]int
}

func (e *ends) add(how string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.n == nil {
		e.n = map[string]int{}
	}
	e.n[how]++
}

func (e *ends) String() string {
	var hows []string
	for how := range e.n {
		hows = append(hows, how)
	}
	slices.SortFunc(hows, func(a, b string) int { return cmp.Or(e.n[b]-e.n[a], strings.Compare(a, b)) })
	for i, how := range hows {
		hows[i] = fmt.Sprintf("%d %s", e.n[how], how)
	}
	return strings.Join(hows[:min(len(hows), 4)], ", ")
}

// run attacks r and watches.
func (a *attack) run(o options, r *rig.Running) *result {
	res := &result{}
	in := newInnocents(r)
	defer in.close()
	in.watch(func() { time.Sleep(500 * time.Millisecond) }) // warm up
	res.calm = in.watch(func() { time.Sleep(1500 * time.Millisecond) })
	before := r.Memory()
	peak := watchMemory(r)
	var sent atomic.Int64
	res.attacked = in.watch(func() {
		if a.hold != nil {
			a.holdMany(o, r, res, &sent)
		} else {
			a.floodFor(o, r, &res.ends, &sent)
		}
	})
	res.sent = sent.Load()
	res.grew = peak() - before
	time.Sleep(2 * time.Second)
	res.stays = r.Memory() - before
	return res
}

func (a *attack) holdMany(o options, r *rig.Running, res *result, sent *atomic.Int64) {
	n := o.connections
	res.held = int64(n)
	if a.few {
		n = max(1, n/10)
		res.held = int64(n) * 100
	}
	until := time.Now().Add(o.hold)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { res.ends.add(a.hold(r, until, sent)) })
		if i%50 == 49 {
			time.Sleep(5 * time.Millisecond) // the backlog is not what we look at
		}
	}
	all.Wait()
}

func (a *attack) floodFor(o options, r *rig.Running, ends *ends, sent *atomic.Int64) {
	until := time.Now().Add(o.length)
	var all sync.WaitGroup
	for range o.attackers {
		all.Go(func() {
			tick := time.NewTicker(reconnect)
			defer tick.Stop()
			for time.Now().Before(until) {
				ends.add(a.flood(r, until, sent))
				<-tick.C
			}
		})
	}
	all.Wait()
}

const (
	mostFrames = 200_000 // of one connection
	fairFrames = 10_000  // by which a proxy should have had enough
	reconnect  = 50 * time.Millisecond
	patience   = 5 * time.Second
)

// flood sends frames on one connection until it ends.
func (a *attack) flood(r *rig.Running, until time.Time, sent *atomic.Int64) string {
	l, err := rig.Dial(r.H2, patience)
	if err != nil {
		time.Sleep(10 * time.Millisecond)
		return "not connected"
	}
	defer l.Close()
	l.NoAck = true // it would meet the frames of the flood
	var writing sync.WaitGroup
	var frames atomic.Int64
	writing.Go(func() {
		l.SetWriteDeadline(until.Add(patience))
		l.Gather(8 << 10)
		for i := range mostFrames {
			if a.frame(l, i) != nil {
				return
			}
			frames.Add(1)
			if i%64 == 0 && time.Now().After(until) {
				break
			}
		}
		l.Gather(0)
		l.SetReadDeadline(time.Now().Add(time.Second))
	})
	how := l.Rest()
	l.Close()
	writing.Wait()
	sent.Add(l.Sent())
	switch {
	case how != "silence":
		return how
	case frames.Load() < fairFrames:
		return "stopped by the clock"
	}
	return "no end"
}

// watchMemory samples until it is asked for the peak.
func watchMemory(r *rig.Running) func() int64 {
	stop, peak := make(chan bool), make(chan int64)
	go func() { // ends with the call
		most := r.Memory()
		for {
			select {
			case <-time.After(50 * time.Millisecond):
				most = max(most, r.Memory())
			case <-stop:
				peak <- max(most, r.Memory())
				return
			}
		}
	}()
	return func() int64 { close(stop); return <-peak }
}
