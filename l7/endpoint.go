package l7

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/loop"
)

// endpointKey is everything that makes connections interchangeable.
type endpointKey struct {
	address  string
	protocol lb.PoolProtocol
	tls      lb.ClientTLS
	plain    bool
	proxied  bool // connections begin with a PROXY header
	bind     netip.Addr
	secrets  [32]byte // digest of the files that tls names
}

// endpoint is where connections go, with those that are idle. It is shared by
// the threads of a proxy and outlives generations.
type endpoint struct {
	key     endpointKey
	remote  loop.Remote
	secure  *clientTLS  // nil: plain
	retired atomic.Bool // no configuration names it any more

	open    atomic.Int64 // connections, idle ones included
	idle    atomic.Int64
	warming atomic.Int64 // connections under way that nobody waits for
	shards  []shard      // one per thread

	pending atomic.Int64  // requests that wait for room, in all queues
	asked   atomic.Uint32 // whose turn it is to be asked
	queues  []queue       // one per thread
}

// shard is what one thread put away. It is a stack: the connection that served
// last serves next, and the others grow old enough to be closed.
type shard struct {
	mu    sync.Mutex // guards conns, and who may touch a connection in it
	conns []*clientH1
	_     [32]byte // a cache line each
}

func newEndpoint(key endpointKey, threads int) (*endpoint, error) {
	e := &endpoint{key: key, shards: make([]shard, threads), queues: make([]queue, threads)}
	if path, ok := strings.CutPrefix(key.address, "unix:"); ok {
		e.remote.Path = path
		return e, nil
	}
	addr, err := netip.ParseAddrPort(key.address)
	if err != nil {
		return nil, fmt.Errorf("backend address %q: %w", key.address, err)
	}
	e.remote = loop.Remote{Addr: addr, From: key.bind}
	return e, nil
}

// bound says whose connection it is when a PROXY header told the backend; zero:
// anybody's.
type bound struct{ source, destination netip.AddrPort }

// bound is what a connection must be for requests of this client.
func (e *endpoint) bound(r *Request) bound {
	if !e.key.proxied {
		return bound{}
	}
	return bound{r.Client, r.Local}
}

// put makes c available to all threads.
func (e *endpoint) put(c *clientH1, limits *lb.PoolLimits) {
	if e.key.proxied && e.idle.Load() >= int64(limits.Idle) {
		e.evict(c.thread) // whose client may be gone
	}
	if e.retired.Load() || e.idle.Load() >= int64(limits.Idle) || c.t.Buffered() > 0 {
		c.close()
		return
	}
	c.idleSince = c.thread.loop.Now()
	c.rest()
	e.idle.Add(1)
	s := &e.shards[c.thread.index]
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	e.freed(c.thread)
}

// evict closes the connection that t put away first.
func (e *endpoint) evict(t *thread) {
	s := &e.shards[t.index]
	s.mu.Lock()
	var c *clientH1
	if len(s.conns) > 0 {
		c = s.conns[0]
		s.conns = slices.Delete(s.conns, 0, 1)
	}
	s.mu.Unlock()
	if c != nil {
		e.idle.Add(-1)
		c.close()
	}
}

// take returns an idle connection on t's loop: one of its own, else one of a
// sibling's.
func (e *endpoint) take(t *thread, whose bound) *clientH1 {
	if e.idle.Load() == 0 {
		return nil
	}
	s := &e.shards[t.index]
	s.mu.Lock()
	c := s.pop(whose, t.loop.Now())
	s.mu.Unlock()
	if c != nil {
		e.idle.Add(-1)
		c.wake()
		return c
	}
	for i := range e.shards {
		if i == t.index {
			continue
		}
		if c := e.steal(&e.shards[i], t, whose); c != nil {
			return c
		}
	}
	return nil
}

func (s *shard) pop(whose bound, now time.Duration) *clientH1 {
	for i := len(s.conns) - 1; i >= 0; i-- {
		c := s.conns[i] // without PROXY headers and HEAD the first is it
		if c.bound == whose && !(c.suspect && now-c.idleSince < suspicion) {
			s.conns = slices.Delete(s.conns, i, i+1)
			return c
		}
	}
	return nil
}

// suspicion is how long a connection is left alone whose backend may be about to
// send a body that must not be.
const suspicion = 50 * time.Millisecond

// remove takes c out, unless somebody else has.
func (s *shard) remove(c *clientH1) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.conns, c)
	if i < 0 {
		return false
	}
	s.conns = slices.Delete(s.conns, i, i+1)
	return true
}

// steal moves a sibling's idle connection to t's loop. The sibling's loop hears
// no more of the descriptor, and forgets its connection when it gets to it.
func (e *endpoint) steal(s *shard, t *thread, whose bound) *clientH1 {
	for {
		s.mu.Lock()
		c := s.pop(whose, t.loop.Now())
		if c == nil {
			s.mu.Unlock()
			return nil
		}
		fd := c.conn.Steal()
		s.mu.Unlock()
		e.idle.Add(-1)
		c.thread.loop.Post(c.conn.Forget)
		if !quiet(fd) { // it ended, or said something unasked, in the meantime
			unix.Close(fd)
			e.closed(t)
			t.counts.stale.Add(1)
			continue
		}
		t.counts.takeovers.Add(1)
		moved := &clientH1{thread: t, endpoint: e, born: c.born, maxAge: c.maxAge, limits: c.limits, uses: c.uses, bound: c.bound}
		if err := moved.conn.Init(t.loop, fd, moved); err != nil {
			e.closed(t)
			return nil
		}
		moved.t = &moved.conn
		if secure, ok := c.t.(*tlsConn); ok {
			secure.moveTo(t, &moved.conn, moved)
			moved.t = secure
		}
		return moved
	}
}

// closed counts a connection out.
func (e *endpoint) closed(t *thread) {
	e.open.Add(-1)
	e.freed(t)
}

// quiet reports whether an idle connection has neither ended nor been sent
// anything.
func quiet(fd int) bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == unix.EAGAIN
}

// sweep closes the idle connections of t that are too old.
func (e *endpoint) sweep(t *thread) {
	s := &e.shards[t.index]
	s.mu.Lock()
	var old []*clientH1
	s.conns = slices.DeleteFunc(s.conns, func(c *clientH1) bool {
		if !e.retired.Load() && !c.old(t.loop.Now()) {
			return false
		}
		old = append(old, c)
		return true
	})
	s.mu.Unlock()
	for _, c := range old {
		e.idle.Add(-1)
		c.close()
	}
}

// sweepEvery is how often each thread looks at its idle connections.
const sweepEvery = time.Second
