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
	// wall leads a held attack against nobody, to see what it costs innocents
	// that share the machine; nil: next to nothing.
	wall func(a *attack, o options, origin string)
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
	beside         innocence // while the same attack is led against a wall
}

// late says that innocent clients felt the attack more than they would have
// felt the attacker alone: load, proxy and origin share the cores here, and an
// attacker that sends all it can is busy whoever reads it. So the same attack is
// led against a wall first, a server that reads and closes at the same pace, and
// that is what innocents' 99th percentile is compared with. (For slow readers the
// wall is the origin: who serves them has to write the responses.)
func (r *result) late() string {
	fair := 3 * max(r.calm.p99, r.beside.p99)
	switch {
	case r.attacked.p99 <= fair:
		return ""
	case r.beside.asked == 0:
		return fmt.Sprintf("innocents wait %s, over three times %s", ms(r.attacked.p99), ms(r.calm.p99))
	}
	return fmt.Sprintf("innocents wait %s, over three times %s beside a wall", ms(r.attacked.p99), ms(r.beside.p99))
}

// wrong says in what the proxy is not what we want it to be.
func (r *result) wrong() string {
	var bad []string
	if n := r.ends.n["no end"]; n > 0 {
		bad = append(bad, fmt.Sprintf("%d connections met no end", n))
	}
	if may := r.mayGrow(); r.grew > may {
		bad = append(bad, fmt.Sprintf("memory grew by %s, %s would do", size(r.grew), size(may)))
	}
	if may := breath + r.mayGrow()/4; r.stays > may {
		bad = append(bad, fmt.Sprintf("%s of memory did not come back", size(r.stays)))
	}
	if r.attacked.failed > 0 {
		bad = append(bad, fmt.Sprintf("%d innocents failed, such as: %s", r.attacked.failed, r.attacked.why))
	}
	return strings.Join(bad, "; ")
}

// breath is what a heap that is collected grows by between two collections.
const breath = 32 << 20

// mayGrow is twice what was sent, or what those that take nothing cost anybody.
func (r *result) mayGrow() int64 { return max(2*r.sent, breath, r.held*heldMemory) }

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
func (a *attack) run(o options, r *rig.Running, origin string) *result {
	res := &result{}
	in := newInnocents(r)
	defer in.close()
	in.watch(func() { time.Sleep(500 * time.Millisecond) }) // warm up
	res.calm = in.watch(func() { time.Sleep(3 * round) })
	if a.hold == nil {
		w, err := startWall(serveWall)
		if err != nil {
			panic(err) // no port is free
		}
		wall := &rig.Running{Addr: w.addr, H2: w.addr}
		var ignored ends
		var bytes atomic.Int64
		res.beside = in.watch(func() { a.floodFor(o, wall, &ignored, &bytes) })
		w.close()
	}
	if a.wall != nil {
		res.beside = in.watch(func() { a.wall(a, o, origin) })
		time.Sleep(time.Second) // its connections are gone
	}
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
	for end := time.Now().Add(comeBack); ; time.Sleep(500 * time.Millisecond) {
		if res.stays = r.Memory() - before; res.stays <= breath || time.Now().After(end) {
			break
		}
	}
	after := in.watch(func() { time.Sleep(3 * round) })
	res.calm.p99 = max(res.calm.p99, after.p99) // a minute may have passed, with other guests on the machine
	return res
}

func (a *attack) holdMany(o options, r *rig.Running, res *result, sent *atomic.Int64) {
	n := o.connections
	res.held = int64(n)
	if a.few {
		n = max(1, n/10)
		res.held = int64(n) * 100
	}
	a.holdAll(r, n, 5*time.Millisecond, time.Now().Add(o.hold), &res.ends, sent)
}

// holdAll holds n connections, 50 more each while: the backlog is not what we
// look at.
func (a *attack) holdAll(r *rig.Running, n int, each time.Duration, until time.Time, ends *ends, sent *atomic.Int64) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { ends.add(a.hold(r, until, sent)) })
		if i%50 == 49 {
			time.Sleep(each)
		}
	}
	all.Wait()
}

// atSilence leads it against a server that reads and says nothing.
func atSilence(a *attack, o options, _ string) {
	w, err := startWall(serveSilence)
	if err != nil {
		panic(err) // no port is free
	}
	defer w.close()
	var ignored ends
	var sent atomic.Int64
	a.holdAll(&rig.Running{Addr: w.addr}, o.connections, 5*time.Millisecond, time.Now().Add(3*patience), &ignored, &sent)
}

// atOrigin leads it against the origin itself, a thousand a second, which go
// before the kernel has given them all it has.
func atOrigin(a *attack, o options, origin string) {
	var ignored ends
	var sent atomic.Int64
	r := &rig.Running{Addr: origin}
	for range (o.connections + 249) / 250 {
		a.holdAll(r, 250, 0, time.Now().Add(250*time.Millisecond), &ignored, &sent)
	}
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
	comeBack   = 20 * time.Second // until the memory is the system's again
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
