package l4_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

func TestACaptureOfRealPackets(t *testing.T) {
	s := newSite(t, 2)
	ingress, owner := s.nodes[0], s.nodes[1]
	s.arriveAt(ingress)
	s.steer(s.only(owner))
	capture := l4.Capture{Dst: vip4, Packets: 4, For: 10 * time.Second, Snaplen: 96}
	var mu sync.Mutex // guards seen
	seen := map[*node][]l4.Sight{}
	var done sync.WaitGroup
	for _, n := range s.nodes {
		done.Go(func() {
			got, err := n.datapath.Capture(context.Background(), capture, func(p l4.Sight) error {
				mu.Lock()
				defer mu.Unlock()
				seen[n] = append(seen[n], p)
				return nil
			})
			if err != nil || got.Packets != 4 || got.Lost > 0 {
				t.Errorf("%s: %+v, %v", n.member.Name, got, err)
			}
		})
	}
	for _, n := range s.nodes {
		for deadline := time.Now().Add(5 * time.Second); !l4.Captures(n.datapath) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	if _, err := owner.datapath.Capture(context.Background(), capture, nil); !errors.Is(err, l4.ErrCapturing) {
		t.Errorf("a second one: %v", err)
	}
	ingress.apply()     // which it outlives
	s.dial(vip6).echo() // not asked for
	s.dial(vip4).echo()
	done.Wait()
	for n, verdict := range map[*node]string{ingress: "redirect", owner: "pass"} {
		for _, p := range seen[n] {
			if p.Verdict != verdict || len(p.Frame) > 96 || p.Ifindex == 0 || time.Since(p.At) > time.Minute {
				t.Errorf("%s: %+v", n.member.Name, p)
			}
		}
	}
	if seen[ingress][0].Reason != lb.XDPSent || seen[owner][0].Reason != lb.XDPReceived {
		t.Errorf("first %s, then %s", seen[ingress][0].Reason, seen[owner][0].Reason)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got, err := owner.datapath.Capture(ctx, capture, nil); err != nil || got.Packets != 0 {
		t.Errorf("nobody waits for it: %+v, %v", got, err)
	}
}

func TestDroppedPacketsBecomeEvents(t *testing.T) {
	s := newSite(t, 1)
	n := s.nodes[0]
	told := make(chan lb.Event, 10)
	n.options.Note = func(e lb.Event) { told <- e }
	s.check(n.datapath.Close())
	n.open()
	s.arriveAt(n)
	n.steering.Sources = []lb.SteeredSource{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Blocked: true}}
	s.steer(s.only(n))
	s.check(s.client.Do(func() error {
		c, err := net.DialTimeout("tcp", vip4.String(), 200*time.Millisecond)
		if err == nil {
			c.Close()
			return errors.New("a blocked source was served")
		}
		return nil
	}))
	select {
	case e := <-told:
		if e.Kind != "packet.dropped" || e.Reason != lb.XDPBlocked || e.Subject != vip4.String() {
			t.Errorf("told of %+v", e)
		}
	case <-time.After(5 * time.Second):
		t.Error("nobody was told")
	}
}
