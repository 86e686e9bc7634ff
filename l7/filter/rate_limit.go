package filter

import (
	"hash/maphash"
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// rateLimit answers 429 when a client asks too often:
//
//	rate_limit: { per_second: 50, burst: 100, by: client }
//
// by says who shares a limit: client (an IPv4 address, or the /64 of an IPv6
// one), header:NAME (requests without the field share one limit) or route (all
// requests of the route). Each worker process counts for itself, and starts
// anew when its configuration changes.
func rateLimit(n lb.Node) (l7.Filter, error) {
	var c struct {
		PerSecond float64 `yaml:"per_second" need:"true"`
		Burst     int     `yaml:"burst"`
		By        string  `yaml:"by" default:"client"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	if !(c.PerSecond >= 0.001 && c.PerSecond <= 1e6) {
		return l7.Filter{}, n.Key("per_second").Errorf("per_second is %v; it wants between 0.001 and 1000000", c.PerSecond)
	}
	if c.Burst == 0 {
		c.Burst = int(math.Ceil(c.PerSecond))
	}
	if c.Burst < 1 || c.Burst > 1e6 {
		return l7.Filter{}, n.Key("burst").Errorf("burst is %d; it wants between 1 and 1000000", c.Burst)
	}
	l := newLimiter(c.PerSecond, c.Burst)
	key, err := limitKey(n, l.seed, c.By)
	if err != nil {
		return l7.Filter{}, err
	}
	return l7.Filter{Name: "rate_limit", Request: func(s *l7.Session) (*l7.Response, error) {
		if wait := l.take(key(s), s.Start); wait > 0 {
			return nil, &l7.Error{Status: 429, Source: l7.FromClient, Reason: lb.RateLimited, RetryAfter: wait}
		}
		return nil, nil
	}}, nil
}

// limitKey returns what maps a request to the number that its limit has.
func limitKey(n lb.Node, seed maphash.Seed, by string) (func(*l7.Session) uint64, error) {
	name, isHeader := strings.CutPrefix(by, "header:")
	switch {
	case by == "client":
		return func(s *l7.Session) uint64 { return maphash.Comparable(seed, network(s.Request.Client.Addr())) }, nil
	case by == "route":
		return func(*l7.Session) uint64 { return 0 }, nil
	case isHeader:
		if err := checkName(n.Key("by"), name); err != nil {
			return nil, err
		}
		return func(s *l7.Session) uint64 { return maphash.String(seed, s.Request.Header.Get(name)) }, nil
	}
	return nil, n.Key("by").Errorf("by is %q; it wants client, header:NAME or route", by)
}

// network is what one client has: whoever has an IPv6 address has its /64.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is4() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// limiter keeps, for each key, when it will have used up what it was allowed
// (the generic cell rate algorithm: a token bucket in one number).
//
// Its memory is fixed: a set of ways slots for each hash. A key that finds its
// set full takes the slot of the key that is least in debt, which is then
// forgotten: too many keys make the limit lenient, never the proxy large. Keys
// are keyed hashes, so nobody can choose whom to push out.
type limiter struct {
	every time.Duration // a request costs so much
	slack time.Duration // debt up to which the next request is allowed
	epoch time.Time     // times count from here
	seed  maphash.Seed
	sets  [limiterShards]struct {
		mu    sync.Mutex
		slots []slot // limiterSets sets of limiterWays
		_     [32]byte
	}
}

type slot struct {
	key  uint64
	paid time.Duration // since epoch: when its debt is paid
}

// 64 * 128 * 8 slots of 16 bytes: a mebibyte for 65 536 clients at once.
const (
	limiterShards = 64
	limiterSets   = 128
	limiterWays   = 8
)

func newLimiter(perSecond float64, burst int) *limiter {
	every := time.Duration(float64(time.Second) / perSecond)
	return &limiter{
		every: max(every, 1),
		slack: every * time.Duration(burst-1),
		epoch: time.Now(),
		seed:  maphash.MakeSeed(),
	}
}

// take asks for one request at a time; 0 is yes, else it is how long to wait.
func (l *limiter) take(key uint64, at time.Time) (wait time.Duration) {
	now := at.Sub(l.epoch)
	shard := &l.sets[key%limiterShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.slots == nil {
		shard.slots = make([]slot, limiterSets*limiterWays)
	}
	set := key / limiterShards % limiterSets * limiterWays
	s := find8(shard.slots[set:set+limiterWays], key)
	if s.key != key || s.paid < now {
		if s.key != key {
			*s = slot{key: key}
		}
		s.paid = max(s.paid, now)
	}
	if debt := s.paid - now; debt > l.slack {
		return debt - l.slack
	}
	s.paid += l.every
	return 0
}

// find8 returns the slot of the key, or the one that is least in debt.
func find8(set []slot, key uint64) *slot {
	least := &set[0]
	for i := range set {
		if set[i].key == key {
			return &set[i]
		}
		if set[i].paid < least.paid {
			least = &set[i]
		}
	}
	return least
}
