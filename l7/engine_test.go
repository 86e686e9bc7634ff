package l7

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// BenchmarkEngine is a request's way through the proxy without a network: what
// of the CPU per request is ours, with caches that no kernel has emptied. Writes
// go to /dev/null and nothing is read, so two cheap system calls are in it.
func BenchmarkEngine(b *testing.B) {
	for _, filters := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("filters=%d", filters), func(b *testing.B) {
			e := startEngine(b, filters)
			b.ReportAllocs()
			e.run(10 * engineConnections) // what is allocated once
			b.ResetTimer()
			b.ReportMetric(float64(e.run(b.N))/float64(b.N), "cpu-ns/op") // whoever else is on this machine
		})
	}
}

func TestTheEngineBenchmarkServesRequests(t *testing.T) {
	for _, filters := range []int{0, 10} {
		e := startEngine(t, filters)
		e.run(3 * engineConnections)
		var served uint32
		for _, s := range e.servers {
			served += s.served
		}
		if s := e.thread.tally.last; s == nil || s.classes[2].Load() != uint64(served) || served < 3*engineConnections {
			t.Errorf("%d requests were not all answered with 2xx", served)
		}
	}
}

// engineConnections are busy at once, on either side.
const engineConnections = 64

// engine drives connections whose peers do not exist. It is a loop's Runner:
// requests of all clients come in one round, their responses in the next.
type engine struct {
	thread  *thread
	servers []*serverH1
	ups     []*clientH1

	left    int
	answers bool
	begun   time.Duration      // of the thread's CPU time
	done    chan time.Duration // what of it was spent
}

// setHeaders are filters that set a header each, of the backend's response.
func setHeaders(n int) (filters map[string]Filter, used []string) {
	filters = map[string]Filter{}
	for i := range n {
		name, header := fmt.Sprint("f", i), fmt.Sprint("X-Engine-", i)
		filters[name] = Filter{Response: func(_ *Session, r *Response) error { r.Header.Set(header, "yes"); return nil }}
		used = append(used, name)
	}
	return filters, used
}

func startEngine(t testing.TB, filters int) *engine {
	t.Helper()
	bodies, used := setHeaders(filters)
	builders := map[string]Builder{}
	for name, f := range bodies {
		builders[name] = func(lb.Node) (Filter, error) { return f, nil }
	}
	p, err := New(Options{Threads: 1, Filters: builders})
	if err != nil {
		t.Fatal(err)
	}
	document := pool("127.0.0.1:1")
	if filters > 0 {
		document = filtered(used, "127.0.0.1:1")
	}
	config, err := lb.Parse([]byte(document), lb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := p.Prepare(1, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(snapshot)
	e := &engine{thread: p.threads[0], done: make(chan time.Duration)}
	e.connect(t, snapshot.pools[0].Backends[0])
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		runtime.LockOSThread() // whose time is taken
		if err := e.thread.loop.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return e
}

// connect makes clients, and idle connections to the backend.
func (e *engine) connect(t testing.TB, b *Backend) {
	th := e.thread
	door := &door{proxy: th.proxy, listener: "web", scheme: "http", open: th.proxy.openBy("web")}
	limits := &b.pool.Config.Connections
	for range engineConnections {
		fd, then := nowhere(t)
		th.serveH1(fd, &client{door: door})
		then()
		s := (*th.clients.at(th.clients.n - 1)).(*serverH1)
		e.servers = append(e.servers, s)
		up := &clientH1{thread: th, endpoint: b.endpoint, limits: limits, maxAge: time.Hour, state: clientIdle, born: th.loop.Now()}
		fd, then = nowhere(t)
		if err := up.conn.Init(th.loop, fd, up); err != nil {
			t.Fatal(err)
		}
		then()
		up.t = &up.conn
		b.endpoint.open.Add(1)
		b.endpoint.put(up, limits)
		e.ups = append(e.ups, up)
	}
}

// nowhere makes sockets, and what turns them, once epoll has them, into
// /dev/null, which epoll would not take.
func nowhere(t testing.TB) (fd int, then func()) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pair[0], func() {
		null, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(null, pair[0], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.Close(null)
		unix.Close(pair[1])
	}
}

// run serves so many requests, or a few more, and returns their CPU time.
func (e *engine) run(n int) time.Duration {
	e.thread.loop.Post(func() {
		e.left, e.begun = n, threadTime()
		e.thread.loop.Later(e)
	})
	return <-e.done
}

func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

var engineRequest, engineResponse = []byte(browserRequest), []byte(kilobyte)

// RunLater is a round.
func (e *engine) RunLater() {
	if e.answers {
		for _, up := range e.ups {
			up.Received(engineResponse)
		}
	} else {
		if e.left <= 0 {
			e.done <- threadTime() - e.begun
			return
		}
		for _, s := range e.servers {
			s.Received(engineRequest)
		}
		e.left -= len(e.servers)
	}
	e.answers = !e.answers
	e.thread.loop.Later(e)
}
