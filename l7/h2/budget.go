package h2

import "time"

// resetSpan is the time in which Config.Resets are allowed.
const resetSpan = 10 * time.Second

// budget counts what a peer makes us do for nothing. Both counters are cheap
// for honest peers: resets matter only when they are more than half of all
// streams, and frames that carry something earn back frames that do not.
type budget struct {
	since  Now // start of the span of the two below
	opened int
	resets int

	tokens   int // frames without content that the peer may still send
	refilled Now
}

func (b *budget) open(now Now) {
	b.roll(now)
	b.opened++
}

// reset counts a stream that ended by a reset of either side, or what is worth n
// of them, and says whether that was one too many.
func (b *budget) reset(now Now, n, limit int) bool {
	b.roll(now)
	b.resets += n
	return b.resets > limit && 2*b.resets > b.opened
}

func (b *budget) roll(now Now) {
	if now-b.since >= resetSpan {
		b.since, b.opened, b.resets = now, 0, 0
	}
}

// spend takes a token and says whether there was none. A tenth of the limit
// comes back each second.
func (b *budget) spend(now Now, limit int) bool {
	if b.tokens > 0 {
		b.tokens--
		return false
	}
	back := int64(now-b.refilled) * int64(limit) / int64(10*time.Second)
	if now-b.refilled >= 10*time.Second {
		back = int64(limit)
	}
	if back <= 0 {
		return true
	}
	b.refilled = now
	b.tokens = int(back) - 1
	return false
}

// earn gives n tokens back.
func (b *budget) earn(n, limit int) { b.tokens = min(b.tokens+n, limit) }
