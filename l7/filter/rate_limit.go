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

// rateLimit answers 429 when a client asks too often, or too much at once:
//
//	rate_limit: { per_second: 50, burst: 100, in_flight: 20, by: client }
//
// per_second and burst bound how many requests begin, in_flight how many are in
// progress; either is enough. by says who shares a limit: client (whom trusted
// proxies name; an IPv4 address, or the /64 of an IPv6 one), header:NAME
// (requests without the field share one limit) or route (all requests of the
// route). Each worker process counts for itself, and starts anew when its
// configuration changes.
func rateLimit(n lb.Node) (l7.Filter, error) {
	var c struct {
		PerSecond *float64 `yaml:"per_second"`
		Burst     int      `yaml:"burst"`
		InFlight  int      `yaml:"in_flight" range:"1..1000000"`
		By        string   `yaml:"by" default:"client"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	seed := maphash.MakeSeed()
	key, err := limitKey(n, seed, c.By)
	if err != nil {
		return l7.Filter{}, err
	}
	var rate *limiter
	switch {
	case c.PerSecond == nil && c.InFlight == 0:
		return l7.Filter{}, n.Errorf("rate_limit wants per_second, in_flight or both")
	case c.PerSecond == nil && c.Burst != 0:
		return l7.Filter{}, n.Key("burst").Errorf("burst is for per_second")
	case c.PerSecond != nil:
		if rate, err = newRate(n, *c.PerSecond, c.Burst); err != nil {
			return l7.Filter{}, err
		}
	}
	f := l7.Filter{Name: "rate_limit", Request: func(s *l7.Session) (*l7.Response, error) {
		if wait := rate.take(key(s), s.Start); wait > 0 {
			return nil, limited(wait)
		}
		return nil, nil
	}}
	if c.InFlight > 0 {
		limitInFlight(&f, c.InFlight, key, rate)
	}
	return f, nil
}

func newRate(n lb.Node, perSecond float64, burst int) (*limiter, error) {
	if !(perSecond >= 0.001 && perSecond <= 1e6) {
		return nil, n.Key("per_second").Errorf("per_second is %v; it wants between 0.001 and 1000000", perSecond)
	}
	if burst == 0 {
		burst = int(math.Ceil(perSecond))
	}
	if burst < 1 || burst > 1e6 {
		return nil, n.Key("burst").Errorf("burst is %d; it wants between 1 and 1000000", burst)
	}
	return newLimiter(perSecond, burst), nil
}

func limited(wait time.Duration) *l7.Error {
	return &l7.Error{Status: 429, Source: l7.FromClient, Reason: lb.RateLimited, RetryAfter: wait}
}

// limitInFlight makes f bound what is in progress, too: a request is asked for
// its place first, so that one that is refused costs nothing of the rate.
func limitInFlight(f *l7.Filter, most int, key func(*l7.Session) uint64, rate *limiter) {
	type place struct {
		key  uint64
		held bool
	}
	var places l7.Local[place]
	busy := new(inFlight)
	f.Request = func(s *l7.Session) (*l7.Response, error) {
		k := key(s)
		if !busy.enter(k, most) {
			return nil, limited(0)
		}
		*places.Of(s) = place{k, true}
		if wait := rate.take(k, s.Start); wait > 0 {
			return nil, limited(wait)
		}
		return nil, nil
	}
	f.Log = func(s *l7.Session, _ error) {
		if p := places.Of(s); p.held {
			busy.leave(p.key)
			p.held = false
		}
	}
}

// inFlight counts what is in progress, by key. It holds no key that has nothing
// in progress, so the bound on requests bounds it.
type inFlight struct {
	shards [limiterShards]struct {
		mu    sync.Mutex
		count map[uint64]int
		_     [48]byte
	}
}

func (b *inFlight) enter(key uint64, most int) bool {
	s := &b.shards[key%limiterShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = map[uint64]int{}
	}
	if s.count[key] >= most {
		return false
	}
	s.count[key]++
	return true
}

func (b *inFlight) leave(key uint64) {
	s := &b.shards[key%limiterShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[key]--; s.count[key] == 0 {
		delete(s.count, key)
	}
}

// limitKey returns what maps a request to the number that its limit has.
func limitKey(n lb.Node, seed maphash.Seed, by string) (func(*l7.Session) uint64, error) {
	name, isHeader := strings.CutPrefix(by, "header:")
	switch {
	case by == "client":
		return func(s *l7.Session) uint64 { return maphash.Comparable(seed, network(s.Client())) }, nil
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
	}
}

// take asks for one request at a time; 0 is yes, else it is how long to wait.
// Without a limiter it is yes.
func (l *limiter) take(key uint64, at time.Time) (wait time.Duration) {
	if l == nil {
		return 0
	}
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
