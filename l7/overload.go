package l7

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
)

// What is done when there is too much of something: clients are refused at the
// door, above limits.connections, a listener's connections and limits.per_client,
// and when the last descriptors are needed for backends; a connection to a backend that no descriptor is left for is a 503; and memory
// near limits.memory first ends keep-alive, then refuses requests.

// admit counts a new client in, or says why it must go.
func (a *acceptor) admit(v *view, l *listener, fd int, peer netip.AddrPort) lb.Reason {
	p := a.thread.proxy
	limits := &v.config.Limits
	switch {
	case v.drains(a.listener):
		return lb.Draining
	case p.memory.level.Load() >= memoryOver:
		return lb.MemoryLimit
	case int64(fd) >= p.files.Load():
		return lb.NoDescriptors
	}
	if p.connections.Add(1) > int64(limits.Connections) {
		p.connections.Add(-1)
		return lb.ConnectionLimit
	}
	if open := a.open.Add(1); l.config.Connections > 0 && open > int64(l.config.Connections) {
		a.open.Add(-1)
		p.connections.Add(-1)
		return lb.ConnectionLimit
	}
	limit := limits.PerClient
	if l.proxied(peer.Addr()) || v.trusts(peer.Addr()) {
		limit = 0 // it speaks for many
	}
	if !p.crowd.add(peer.Addr(), limit) {
		a.open.Add(-1)
		p.connections.Add(-1)
		return lb.ClientLimit
	}
	return ""
}

// The last descriptors are for connections to backends: a client that is here
// could not be served without one.
const (
	sparedShare = 8 // of all, one in so many
	leastSpared = 8
	mostSpared  = 512
)

// filesForClients is the first descriptor that no new client gets. The kernel
// gives the least that is free, so with it all below are in use.
func filesForClients() int64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	n := int64(limit.Cur)
	return n - min(max(n/sparedShare, leastSpared), mostSpared)
}

// shed closes a connection that is one too many. Over plain HTTP it is told so,
// as far as that costs no more than the close.
func (a *acceptor) shed(fd int, l *listener, peer netip.AddrPort, reason lb.Reason) {
	t := a.thread
	o := outcome{start: t.loop.Time(), client: peer, listener: a.listener, reason: reason, made: true}
	if l.config.Protocol == lb.ListenHTTP {
		o.status = 503
		_, _ = unix.Read(fd, t.loop.Input()[:16<<10]) // what is unread would reset our words away
		_, _ = unix.Write(fd, refusal(reason))
	}
	unix.Close(fd)
	t.countShed(a.listener, reason)
	t.write(&o)
}

func (t *thread) countShed(listener string, reason lb.Reason) {
	t.counts.refused.Add(1)
	t.tally.event("lbd_shed_connections_total", "listener", listener, "reason", string(reason))
}

// refusal is a whole response.
func refusal(reason lb.Reason) []byte {
	text := "503 " + h1.Reason(503) + ": " + string(reason) + "\n"
	return []byte("HTTP/1.1 503 " + h1.Reason(503) + "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: " + strconv.Itoa(len(text)) +
		"\r\nRetry-After: 1\r\nConnection: close\r\n\r\n" + text)
}

// crowd counts connections by the client's address. The zero value is ready.
type crowd struct {
	seed   maphash.Seed
	once   sync.Once
	shards [64]struct {
		mu sync.Mutex // guards n
		n  map[netip.Addr]int32
	}
}

// crowdKey is what counts as one client: an address, or a network of IPv6 that
// one host may have to itself.
func crowdKey(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is6() {
		network, err := a.WithZone("").Prefix(64)
		if err == nil {
			return network.Addr()
		}
	}
	return a
}

func (c *crowd) shard(a netip.Addr) int {
	c.once.Do(func() { c.seed = maphash.MakeSeed() })
	return int(maphash.Comparable(c.seed, a) % uint64(len(c.shards)))
}

// add counts a connection of a, unless there are limit of them; 0: no limit.
func (c *crowd) add(a netip.Addr, limit int) bool {
	if !a.IsValid() {
		return true
	}
	a = crowdKey(a)
	s := &c.shards[c.shard(a)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 && s.n[a] >= int32(limit) {
		return false
	}
	if s.n == nil {
		s.n = map[netip.Addr]int32{}
	}
	s.n[a]++
	return true
}

func (c *crowd) remove(a netip.Addr) {
	if !a.IsValid() {
		return
	}
	a = crowdKey(a)
	s := &c.shards[c.shard(a)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n[a]--; s.n[a] <= 0 {
		delete(s.n, a)
	}
}

// dialError is why there is no connection to a backend. A lack of our own is not
// the backend's fault, and another one would not help.
func dialError(err error) *Error {
	for _, lack := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, lack) {
			return &Error{Status: 503, Reason: lb.NoDescriptors, Err: err}
		}
	}
	return &Error{Status: 502, Source: FromUpstream, Reason: lb.ConnectFailed, Err: err, kind: failedConnect}
}

// spareDescriptor closes an idle connection to some backend, and reports whether
// there was one.
func (t *thread) spareDescriptor() bool {
	for _, e := range *t.proxy.endpointList.Load() {
		if before := e.idle.Load(); before > 0 {
			if e.evict(t); e.idle.Load() < before {
				return true
			}
		}
	}
	return false
}

// The levels of memory.
const (
	memoryFine int32 = iota
	memoryHigh       // connections end with their next response, idle ones soon
	memoryOver       // requests and connections are refused
)

const (
	memoryEvery = 250 * time.Millisecond
	// memoryBack is how often the system is given memory back, at most; and from
	// how much in use on.
	memoryBack    = 10 * time.Second
	memoryRarely  = 10 * time.Minute // when there was little to give
	memoryIdle    = 8 << 20
	memoryLarge   = 64 << 20
	memoryDefault = 1 << 30 // when not even the host's is known
)

// stock watches how much memory the process has.
type stock struct {
	level atomic.Int32
	used  atomic.Int64
	limit atomic.Int64

	samples   []metrics.Sample // of the watcher's goroutine, as what follows
	cycles    uint64           // of the collector
	collected time.Time        // when it was seen at work
	gave      time.Time
	gaveAt    uint64 // the collector's cycle, then
	every     time.Duration
	left      int64 // in use after that
	loud      time.Time

	strained     uint64 // connections that ended because the kernel was short of it
	strainedLoud time.Time
}

// Indices of memory.samples.
const (
	memoryTotal = iota
	memoryReleased
	memoryCycles
)

// runMemory watches until ctx ends.
func (p *Proxy) runMemory(ctx context.Context) {
	m := &p.memory
	m.samples = []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	m.every = memoryBack
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.setMemory(memoryLevel(m.level.Load(), m.read(), m.limit.Load()))
		p.noteStrain()
		m.giveBack(m.used.Load())
	}
}

// read returns what is in use, and notes whether the collector works.
func (m *stock) read() int64 {
	metrics.Read(m.samples)
	used := int64(m.samples[memoryTotal].Value.Uint64() - m.samples[memoryReleased].Value.Uint64())
	if cycles := m.samples[memoryCycles].Value.Uint64(); cycles != m.cycles {
		m.cycles, m.collected = cycles, time.Now()
	}
	m.used.Store(used)
	return used
}

// memoryLevel is pure. A level is left a little below where it begins.
func memoryLevel(now int32, used, limit int64) int32 {
	share := func(percent int64) int64 { return limit / 100 * percent }
	switch {
	case limit <= 0:
		return memoryFine
	case used >= limit, now == memoryOver && used >= share(92):
		return memoryOver
	case used >= share(85), now >= memoryHigh && used >= share(78):
		return memoryHigh
	}
	return memoryFine
}

// giveBack collects and returns to the system what is free, if that is due.
func (m *stock) giveBack(used int64) {
	if !m.due(used, time.Now()) {
		return
	}
	debug.FreeOSMemory()
	m.left = m.read()
	m.gave, m.gaveAt = time.Now(), m.cycles
	if m.left > used/4*3 && used > memoryLarge {
		m.every = min(2*m.every, memoryRarely)
	}
}

// due: there was work since, and nobody has collected for a while: after a flood
// the collector would wait for minutes. If of a large heap there was little to
// give it is not tried again so soon, until more is used.
func (m *stock) due(used int64, now time.Time) bool {
	if used > m.left+m.left/4+memoryIdle/2 {
		m.every = memoryBack
	}
	switch {
	case used < memoryIdle, now.Sub(m.gave) < m.every:
		return false
	case m.level.Load() > memoryFine:
		return true
	}
	return m.cycles != m.gaveAt && now.Sub(m.collected) >= memoryBack/2
}

// setMemory enters a level.
func (p *Proxy) setMemory(level int32) {
	m := &p.memory
	was := m.level.Swap(level)
	if was == level {
		return
	}
	if level > memoryFine && time.Since(m.loud) > time.Minute {
		m.loud = time.Now()
		p.log.Warn("memory is short", "used", m.used.Load(), "limit", m.limit.Load(), "refusing", level == memoryOver)
	}
	if was == memoryFine {
		p.each(func(t *thread) { t.clients.each(clientConn.drain) })
	}
}

// noteStrain tells when clients that took nothing were cut off.
func (p *Proxy) noteStrain() {
	m := &p.memory
	var n uint64
	for _, t := range p.threads {
		n += t.loop.Strained()
	}
	if n > m.strained && time.Since(m.strainedLoud) > time.Minute {
		m.strainedLoud = time.Now()
		p.log.Warn("the kernel is short of memory for TCP: clients that take nothing are cut off", "clients", n-m.strained)
		m.strained = n
	}
}

// limitMemory takes limits.memory from a configuration. The collector works
// harder before anything is refused.
func (p *Proxy) limitMemory(c *lb.Config) {
	limit := int64(c.Limits.Memory)
	if limit == 0 {
		limit = hostMemory() / 100 * 70 / int64(max(1, c.Workers.Processes))
	}
	if p.memory.limit.Swap(limit) != limit {
		debug.SetMemoryLimit(limit / 100 * 80)
	}
}

// hostMemory is what the host has, or what the control group may use of it.
var hostMemory = sync.OnceValue(func() int64 {
	var info unix.Sysinfo_t
	most := int64(memoryDefault)
	if unix.Sysinfo(&info) == nil {
		most = int64(info.Totalram) * int64(info.Unit)
	}
	groups, _ := os.ReadFile("/proc/self/cgroup")
	_, path, ok := strings.Cut(strings.TrimSpace(string(groups)), "0::")
	for ok && path != "" {
		text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", path, "memory.max"))
		if n, bad := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && bad == nil {
			most = min(most, n)
		}
		if path == "/" || path == "." {
			break
		}
		path = filepath.Dir(path)
	}
	return most
})
