package l4

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cirque-lb/lb/bpf"
)

// A partition looks like a death. Segments of connections that the other side
// has are held back for as long as it may still heal, and no longer.
func TestMissesAreHeldWhileAPeerMayBeCutOff(t *testing.T) {
	at := netip.MustParseAddr("10.0.0.2")
	for _, c := range []struct {
		sentence string
		cut      time.Duration // how long the peer does not answer
		most     time.Duration // for how long misses are held
		least    time.Duration
	}{
		{"an answer that is late", askEvery, 0, 0},
		{"a partition of 10 s", 10 * time.Second, 13 * time.Second, 11 * time.Second},
		{"a death", time.Minute, 16 * time.Second, 14 * time.Second},
	} {
		l := &life{heard: true}
		p := &prober{lives: map[netip.Addr]*life{at: l}}
		var u unsettled
		var n bpf.Node
		begin := uint64(time.Hour)
		held := []time.Duration{}
		for since := time.Duration(0); since < 2*time.Minute; since += askEvery {
			now := begin + uint64(since)
			l.missed++
			if since >= c.cut {
				l.missed = 0 // it answers before the next question
			}
			if since == 3*time.Second && c.cut > since {
				u.renew(&n, now) // its peers agree without it
			}
			reason, _, _ := p.state()
			u.extend(&n, reason, now)
			if n.UnsettledUntil > now {
				held = append(held, since)
			}
		}
		if c.most == 0 {
			if len(held) > 0 {
				t.Errorf("%s: held at %v", c.sentence, held)
			}
			continue
		}
		if len(held) == 0 {
			t.Errorf("%s: nothing is held", c.sentence)
			continue
		}
		last := slices.Max(held)
		if last < c.least || last > c.most || len(held) != int((last-held[0])/askEvery)+1 {
			t.Errorf("%s: held from %v to %v at %d of the moments between, want to the end between %v and %v", c.sentence, held[0], last, len(held), c.least, c.most)
		}
		if u.since != 0 {
			t.Errorf("%s: a later change would not be held for", c.sentence)
		}
	}
}

func TestAnAnswerIsBelievedByItsTag(t *testing.T) {
	at := netip.MustParseAddr("10.0.0.2")
	p := &prober{lives: map[netip.Addr]*life{}}
	p.follow([]netip.Addr{at}, []uint32{0xfeedface, 0x11111111}, 7)
	for _, c := range []struct {
		sentence string
		tag      uint32
		believed bool
	}{
		{"the first tag", 0xfeedface, true},
		{"the one that is rotated out", 0x11111111, true},
		{"another cluster's", 0xdeadbeef, false},
	} {
		l := p.lives[at]
		l.asked, l.missed = l.asked+1, 1
		answer := p.question(l.asked)
		answer[1] = pulseAnswer
		binary.BigEndian.PutUint32(answer[8:], c.tag)
		p.answered(at, answer)
		if believed := l.missed == 0; believed != c.believed {
			t.Errorf("%s: believed %t", c.sentence, believed)
		}
	}
}
