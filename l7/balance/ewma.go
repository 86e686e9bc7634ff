package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// ewma takes the cheaper of two random candidates, drawn by weight; what a
// candidate costs is its recent latency times what it has in progress (Finagle's
// peak EWMA). As least_request does, it sometimes takes the first whatever it
// costs; and what was not asked for long becomes cheap again.
type ewma struct {
	set
	latency []*Latency
	draw    alias
}

func newEWMA(candidates []Candidate) Balancer {
	e := &ewma{set: newSet(candidates)}
	for _, i := range e.index {
		e.latency = append(e.latency, candidates[i].Latency)
	}
	e.draw = newAlias(e.weight)
	return e
}

func (e *ewma) Pick(a Ask) int {
	return e.draw.ofTwo(&e.set, &a, func(x, y int) bool { return e.cost(x, a.Now) > e.cost(y, a.Now) })
}

// unknownCost is the latency, in seconds, of who was never heard of but has
// requests in progress: those waiting for its first answer do not flood it.
const unknownCost = 10

func (e *ewma) cost(i int, now time.Duration) float64 {
	active := e.active[i].Load()
	latency := e.latency[i].Seconds(now)
	if latency == 0 && active > 0 {
		latency = unknownCost
	}
	return latency * float64(active+1) / float64(e.weight[i])
}

// Latency is what a backend's answers took lately: an average that jumps up at
// once and comes down slowly, and decays while nothing is heard. The zero value
// is ready; its methods may be called concurrently.
type Latency struct {
	// packed is seconds as a float32 in the upper half, and in the lower one when
	// they were true, in milliseconds of the observer's clock.
	packed atomic.Uint64
}

// latencyTau is how long an observation takes to lose two thirds of its weight.
const latencyTau = 10 * time.Second

// Observe notes that an answer took so long.
func (l *Latency) Observe(now, took time.Duration) {
	for {
		old := l.packed.Load()
		was, kept := unpack(old, now)
		seconds := took.Seconds()
		if seconds < was {
			// What stood there counts as if it had been seen all the time
			// since: kept of it stays.
			seconds = was*kept + seconds*(1-kept)
		}
		if l.packed.CompareAndSwap(old, pack(seconds, now)) {
			return
		}
	}
}

// Seconds is the latency at a moment; 0: nothing was ever observed.
func (l *Latency) Seconds(now time.Duration) float64 {
	was, kept := unpack(l.packed.Load(), now)
	return was * kept
}

func pack(seconds float64, now time.Duration) uint64 {
	return uint64(math.Float32bits(float32(seconds)))<<32 | uint64(uint32(now.Milliseconds()))
}

// unpack returns the seconds as they were observed, and how much of them the
// time since has left. The clock of another thread may be a moment behind.
func unpack(packed uint64, now time.Duration) (seconds, kept float64) {
	seconds = float64(math.Float32frombits(uint32(packed >> 32)))
	since := int32(uint32(now.Milliseconds()) - uint32(packed))
	if seconds == 0 || since <= 0 {
		return seconds, 1
	}
	return seconds, math.Exp(-float64(since) / float64(latencyTau.Milliseconds()))
}
