package l4_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

func TestAnotherLayoutTakesOverUnderTraffic(t *testing.T) {
	undo := l4.Widen()
	defer func() { undo() }()
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.arriveAt(a)
	s.steer(s.only(b), s.only(a))
	kept, old := s.dial(vip4), attached(a)
	wide, _ := os.ReadDir(a.options.Pins)
	var ticks []*conn // they talk all the time
	for range 4 {
		ticks = append(ticks, s.dial(vip4))
	}
	stop := make(chan struct{})
	var talking sync.WaitGroup
	for _, c := range ticks {
		talking.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					c.echo()
				}
			}
		})
	}
	undo()
	undo = func() {}
	for _, n := range s.nodes {
		before := n.count(lb.XDPSent) + n.count(lb.XDPReceived)
		s.check(n.datapath.Close())
		n.open()
		if r := n.datapath.Report(); r.Adopted || r.Mode() != lb.FastpathNative || !r.Sockets.Steered {
			t.Errorf("%s before it knows what to steer: %+v", n.member.Name, r)
		}
		kept.echo()
		if c := s.dial(vip4); c.node != "edge-2" {
			t.Errorf("%s by the old programs: a new connection went to %s", n.member.Name, c.node)
		}
		n.apply()
		if r := n.datapath.Report(); r.Mode() != lb.FastpathNative || r.Interfaces[0].Why != "" || !r.Sockets.Steered || len(r.Problems) > 0 {
			t.Errorf("%s after it: %+v", n.member.Name, r)
		}
		kept.echo()
		if c := s.dial(vip6); c.node != "edge-2" {
			t.Errorf("%s by the new programs: a new connection went to %s", n.member.Name, c.node)
		}
		if now := n.count(lb.XDPSent) + n.count(lb.XDPReceived); now <= before {
			t.Errorf("%s counted %d packets before and %d after", n.member.Name, before, now)
		}
		if dirs, _ := os.ReadDir(n.options.Pins); len(dirs) != 1 || dirs[0].Name() == wide[0].Name() {
			t.Errorf("%s has the pins %v", n.member.Name, dirs)
		}
	}
	// A young row's list of hops ends with the node itself: the owner before is
	// asked, and sends the SYN back.
	s.steer(s.only(a), s.only(b), s.only(a))
	if c := s.dial(vip4); c.node != "edge-1" {
		t.Errorf("a SYN that the owner before was asked about went to %s", c.node)
	}
	if n := b.count(lb.XDPUnknownHop); n != 0 {
		t.Errorf("%d packets had a hop that is nobody", n)
	}
	close(stop)
	talking.Wait()
	if attached(a) == old {
		t.Error("the old program is still there")
	}
	a.apply()
	if n := l4.Writes(a.datapath); n != 0 {
		t.Errorf("the same steering took %d writes after the migration", n)
	}
}

func TestDetachFindsEveryLayout(t *testing.T) {
	undo := l4.Widen()
	defer func() { undo() }()
	s := newSite(t, 1)
	n := s.nodes[0]
	s.steer()
	undo()
	undo = func() {}
	s.check(n.datapath.Close())
	s.check(n.ns.Do(func() error { return l4.Detach(n.options) }))
	if left, _ := filepath.Glob(filepath.Join(n.options.Pins, "*")); attached(n) != 0 || len(left) != 0 {
		t.Errorf("detached: program %d, pins %v", attached(n), left)
	}
	n.open() // for the cleanup
}
