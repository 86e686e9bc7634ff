package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/cirque-lb/lb"
)

// fabric carries messages in memory, so that minutes of a cluster, with the timing
// that it has in production, take a bubble's clock a moment.
type fabric struct {
	mu    sync.Mutex // guards what follows
	ends  map[string]*end
	sides map[string]int
}

// end is one node's place at the fabric. What nobody takes in time is lost.
type end struct {
	fabric  *fabric
	at      netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (f *fabric) plug(at netip.AddrPort) *end {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := &end{f, at, make(chan *memberlist.Packet, 1024), make(chan net.Conn, 64)}
	f.ends[at.String()] = e
	return e
}

// reach is the end at an address, when nothing is cut.
func (f *fabric) reach(from netip.AddrPort, to string) *end {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sides[from.String()] != f.sides[to] {
		return nil
	}
	return f.ends[to]
}

// divide puts nodes on sides; nothing passes between them.
func (f *fabric) divide(sides map[string]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sides = sides
}

func (e *end) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return e.at.Addr().AsSlice(), int(e.at.Port()), nil
}
func (e *end) PacketCh() <-chan *memberlist.Packet { return e.packets }
func (e *end) StreamCh() <-chan net.Conn           { return e.streams }
func (e *end) Shutdown() error                     { return nil }

func (e *end) WriteTo(b []byte, to string) (time.Time, error) {
	return e.WriteToAddress(b, memberlist.Address{Addr: to})
}

func (e *end) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if there := e.fabric.reach(e.at, to.Addr); there != nil {
		select {
		case there.packets <- &memberlist.Packet{Buf: slices.Clone(b), From: net.UDPAddrFromAddrPort(e.at), Timestamp: time.Now()}:
		default:
		}
	}
	return time.Now(), nil
}

func (e *end) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	return e.DialAddressTimeout(memberlist.Address{Addr: to}, timeout)
}

// DialAddressTimeout finds a cut the hard way: nobody says no.
func (e *end) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if there := e.fabric.reach(e.at, to.Addr); there != nil {
		here, other := net.Pipe()
		select {
		case there.streams <- other:
			return here, nil
		default:
		}
	}
	time.Sleep(timeout)
	return nil, errors.New("no answer")
}

// TestAPartitionOfAnyLengthHealsSoon cuts five nodes apart at random, for
// seconds and for minutes, with edits and another node's drain on every side, and
// wants the same epoch, the same document and everybody's word everywhere well
// within the 15 s that are promised.
func TestAPartitionOfAnyLengthHealsSoon(t *testing.T) {
	const bound = 10 * time.Second
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		f := &fabric{ends: map[string]*end{}, sides: map[string]int{}}
		all := plugged(t, f, 5)
		healed(t, all, time.Minute)
		var worst time.Duration
		for round := range 6 {
			sides := map[string]int{}
			for _, c := range all {
				sides[c.Address().String()] = random.IntN(3)
			}
			f.divide(sides)
			for range 3 {
				time.Sleep(time.Duration(random.Int64N(int64(10 * time.Second)))) // an edit at any moment
				offer(t, all[random.IntN(len(all))], fmt.Sprint(round))
				all[random.IntN(len(all))].SetWeight(1 + random.IntN(3))
			}
			if round%3 == 0 {
				time.Sleep(time.Duration(random.Int64N(int64(20 * time.Minute)))) // memberlist has forgotten the dead
			}
			f.divide(map[string]int{})
			worst = max(worst, healed(t, all, bound))
		}
		t.Logf("agreed %v after a heal at the latest", worst)
	})
}

// plugged is n nodes with production's timing, which run until the test ends.
func plugged(t *testing.T, f *fabric, n int) (all []*Cluster) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i := range n {
		name := string(rune('a' + i))
		at := netip.AddrPortFrom(self(name).Address, 7946)
		o := Options{Name: "test", Self: self(name), Bind: at, Keys: []Key{{1}}, transport: f.plug(at)}
		if i > 0 {
			o.Join = []string{all[0].Address().String()}
		}
		c, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		running.Go(func() { c.Run(ctx) })
		c.SetReady(true)
	}
	t.Cleanup(func() {
		cancel()
		for _, c := range all {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		running.Wait()
		time.Sleep(time.Minute) // memberlist's last probes
	})
	return all
}

func offer(t *testing.T, c *Cluster, text string) {
	t.Helper()
	d := Document{Generation: lb.Generation{Counter: c.Counter() + 1, Node: c.options.Self.Name}, Text: []byte(text)}
	if now, ok := c.Document(); ok {
		d.Past = append([]lb.Generation{now.Generation}, now.Past...)
	}
	if err := c.Offer(c.Seal(d)); err != nil {
		t.Error(err)
	}
}

// healed waits until all are of one mind and says how long that took.
func healed(t *testing.T, all []*Cluster, bound time.Duration) time.Duration {
	t.Helper()
	last := ""
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		why := minds(all)
		if why != last && time.Since(began) > 3*time.Second {
			t.Logf("after %v: %s", time.Since(began), why)
			last = why
		}
		switch took := time.Since(began); {
		case why == "":
			return took
		case took > bound:
			t.Fatalf("%v after the heal: %s", took, why)
		}
	}
}

func minds(all []*Cluster) string {
	d, _ := all[0].Document()
	for _, c := range all {
		name := c.options.Self.Name
		if len(c.Epochs()) == 0 || !equalEpochs(c.Epochs()[0], all[0].Epochs()[0]) || len(c.Epochs()[0].Members) != len(all) {
			return fmt.Sprintf("%s has %s, a %s", name, lines(c.Epochs()), lines(all[0].Epochs()))
		}
		if own, _ := c.Document(); own.Digest() != d.Digest() {
			return fmt.Sprintf("%s has document %s, a %s", name, own.Generation, d.Generation)
		}
		for _, m := range c.Members() {
			if m.State != Alive {
				return fmt.Sprintf("%s finds %s %s", name, m.Name, m.State)
			}
		}
		words := c.Said(claimPart)
		for _, s := range words {
			if cl, err := readClaim(s.Body); err != nil || cl.Has != d.heading() && !d.Generation.IsZero() {
				return fmt.Sprintf("%s believes that %s has %s", name, s.Member, cl.Has.Generation)
			}
		}
		if !d.Generation.IsZero() && len(words) != len(all) {
			return fmt.Sprintf("%s has heard %d nodes", name, len(words))
		}
	}
	return ""
}
