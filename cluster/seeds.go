package cluster

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialsAtOnce = 8
	slowest     = 2 * time.Second // between two dials of one target: a heal is found within it
	maxTargets  = 256
	resolveTime = 2 * time.Second
)

// seeds dials, for ever, the configured seeds and the members that died, as
// long as they are not with us: memberlist forgets the dead after a while, and
// without this a partition that outlives its memory would never heal.
type seeds struct {
	cluster *Cluster
	join    []string
	base    time.Duration

	targets map[string]*target // owned by run

	dials, failed atomic.Uint64
}

// target is an address to dial, with its back-off.
type target struct {
	due      time.Time
	delay    time.Duration
	failures int // in a row; owned by the dial under way
}

func newSeeds(c *Cluster, join []string, base time.Duration) *seeds {
	return &seeds{cluster: c, join: join, base: base, targets: map[string]*target{}}
}

// run dials everybody once, which settles whether there is a list to learn,
// and then whoever is missing.
func (s *seeds) run(ctx context.Context) {
	for first := true; ctx.Err() == nil; first = false {
		s.dialDue(ctx)
		if first && ctx.Err() == nil {
			s.cluster.synced() // nobody answers: we are the first, or cut off
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.base / 2):
		}
	}
}

// dialDue dials the targets whose time has come, a bounded number at once.
func (s *seeds) dialDue(ctx context.Context) {
	var dials sync.WaitGroup
	slots := make(chan struct{}, dialsAtOnce)
	now := time.Now()
	for _, address := range s.missing() {
		t := s.targets[address]
		if t.due.After(now) {
			continue
		}
		t.delay = min(max(2*t.delay, s.base), slowest)
		t.due = now.Add(t.delay*4/5 + rand.N(t.delay*2/5))
		slots <- struct{}{}
		dials.Go(func() {
			defer func() { <-slots }()
			s.dial(ctx, address, t)
		})
	}
	dials.Wait()
}

// missing lists the targets that are not with us and forgets the back-off of
// those that are.
func (s *seeds) missing() (addresses []string) {
	here, gone := s.cluster.reach()
	wanted := map[string]bool{}
	for _, a := range append(slices.Clone(s.join), gone...) {
		if !here[a] && len(wanted) < maxTargets {
			wanted[a] = true
		}
	}
	for a := range s.targets {
		if !wanted[a] {
			delete(s.targets, a)
		}
	}
	for a := range wanted {
		if s.targets[a] == nil {
			s.targets[a] = &target{}
		}
		addresses = append(addresses, a)
	}
	return addresses
}

// dial resolves a target and exchanges everything with each of its addresses
// that is not with us yet.
func (s *seeds) dial(ctx context.Context, address string, t *target) {
	for _, a := range resolve(ctx, address) {
		if here, _ := s.cluster.reach(); here[a] {
			continue
		}
		s.dials.Add(1)
		if err := s.cluster.gossip.join(a); err != nil {
			s.failed.Add(1)
			t.failures++
			s.cluster.rarely(uint64(t.failures), "seed.unreachable", address, err.Error())
			continue
		}
		t.failures = 0
		s.cluster.synced()
	}
}

// resolve turns host:port into addresses; one that is an address stays as it is.
func resolve(ctx context.Context, address string) []string {
	if _, err := netip.ParseAddrPort(address); err == nil {
		return []string{address}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return []string{address} // the dial says what is wrong
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return []string{address}
	}
	for i := range found {
		found[i] = net.JoinHostPort(found[i], port)
	}
	return found[:min(len(found), 16)]
}

// reach lists the gossip addresses of who is here, ourselves included, and of
// who died.
func (c *Cluster) reach() (here map[string]bool, gone []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	here = map[string]bool{c.gossip.address.String(): true}
	for _, p := range c.view.peers {
		switch p.state {
		case Alive:
			here[p.gossip.String()] = true
		case Dead:
			gone = append(gone, p.gossip.String())
		}
	}
	return here, gone
}
