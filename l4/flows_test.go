package l4_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

func TestConnectionsSayWhichEpochsTheyNeed(t *testing.T) {
	s := newSite(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	for _, n := range s.nodes {
		n.member.Boot = n.datapath.Boot()
	}
	s.arriveAt(a)
	held := func(n *node) (flows []int, looked int) {
		holdings, looked, err := n.datapath.Holdings()
		s.check(err)
		for _, h := range holdings {
			flows = append(flows, h.Flows)
		}
		return flows, looked
	}
	s.steer(s.only(a))
	old := []*conn{s.dial(vip4), s.dial(vip6)}
	if flows, _ := held(a); len(flows) != 0 {
		t.Errorf("with one epoch some is held for %v connections", flows)
	}
	s.steer(s.only(b), s.only(a))
	s.dial(vip4)
	if flows, looked := held(a); len(flows) != 1 || flows[0] != 2 || looked != 2 {
		t.Errorf("edge-1 holds the epoch before for %v of %d connections, want 2 of 2", flows, looked)
	}
	if flows, looked := held(b); len(flows) != 0 || looked != 1 {
		t.Errorf("edge-2 holds an epoch for %v of %d connections, want none of 1", flows, looked)
	}
	s.steer(s.only(a), s.only(b), s.only(a))
	if flows, _ := held(a); len(flows) != 0 {
		t.Errorf("the row is edge-1's again, and an epoch is held for %v connections", flows)
	}

	s.steer(s.only(b), s.only(a))
	holdings, _, err := a.datapath.Holdings()
	s.check(err)
	never := l4.Flow{Tuple: lb.Tuple{Protocol: lb.TCP, Src: vip4, Dst: vip4}}
	n, err := a.datapath.Destroy(append(holdings[0].Some, never, holdings[0].Some[0]))
	if n != 2 || err != nil {
		t.Errorf("destroyed %d: %v", n, err)
	}
	for _, c := range old {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Errorf("a client of a destroyed connection reads %v", err)
		}
	}
	if flows, _ := held(a); len(flows) != 0 {
		t.Errorf("destroyed, and the epoch is held for %v connections", flows)
	}
	s.steer(s.only(a))
	s.dial(vip4).echo() // the listening sockets are as they were
}
