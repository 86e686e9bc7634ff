package l7

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// refused wants the next connection to be told why it is one too many, and the
// one after that to be served once this one is closed.
func refused(t *testing.T, l *lab, keep *peer, reason lb.Reason) {
	t.Helper()
	if got := l.dial().rest(); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.HasSuffix(got, ": "+string(reason)+"\n") {
		t.Errorf("got %q", got)
	}
	keep.get("/").want(t, "200", "ok")
	keep.Close()
	for end := time.Now().Add(patience); l.proxy.connections.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection is still counted")
		}
	}
	l.dial().get("/").want(t, "200", "ok")
}

func TestAConnectionTooManyIsTurnedAway(t *testing.T) {
	for name, c := range map[string]struct {
		limits, listener string
		reason           lb.Reason
	}{
		"of the process":  {"connections: 1", "", lb.ConnectionLimit},
		"of the listener": {"connections: 100", "connections: 1", lb.ConnectionLimit},
		"of the client":   {"per_client: 1", "", lb.ClientLimit},
	} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, answering(ok))
			doc := strings.Replace(bounded(c.limits, "", o.addr), `web: { `, `web: { `+strings.TrimPrefix(c.listener+", ", ", "), 1)
			l := startLab(t, labOptions{}, doc)
			k := l.dial()
			k.get("/").want(t, "200", "ok")
			refused(t, l, k, c.reason)
			if got := l.proxy.count("lbd_shed_connections_total", "listener", "web", "reason", string(c.reason)); got != 1 {
				t.Errorf("counted %v, want 1", got)
			}
		})
	}
}

// The last descriptors are for backends: who comes is turned away, who is here is
// served.
func TestTheLastDescriptorsAreForBackends(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, bounded("connections: 100", "", o.addr))
	here := l.dial()
	here.get("/").want(t, "200", "ok")
	all := l.proxy.files.Swap(1) // all above are in use
	if got := l.dial().rest(); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.HasSuffix(got, ": no_descriptors\n") {
		t.Errorf("got %q", got)
	}
	here.get("/").want(t, "200", "ok")
	l.proxy.files.Store(all)
	l.dial().get("/").want(t, "200", "ok")
	if n := filesForClients(); n < 1 || n != all {
		t.Errorf("clients get descriptors below %d, and %d", n, all)
	}
}

// count is the value of a sample.
func (p *Proxy) count(name string, labels ...string) float64 {
	for _, s := range p.samples() {
		if s.Name == name && strings.Join(s.Labels, " ") == strings.Join(labels, " ") {
			return s.Value
		}
	}
	return -1
}

func TestTrustedNetworksHaveNoLimitOfTheirOwn(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, "trusted: [127.0.0.0/8]\n"+bounded("per_client: 1", "", o.addr))
	for range 3 {
		l.dial().get("/").want(t, "200", "ok")
	}
}

func TestAPROXYHeadersClientCountsAsItself(t *testing.T) {
	o := startOrigin(t, answering(ok))
	doc := strings.Replace(bounded("per_client: 1", "", o.addr), `web: { `, `web: { proxy_protocol: { from: [127.0.0.0/8] }, `, 1)
	l := startLab(t, labOptions{}, doc)
	const from = "PROXY TCP4 192.0.2.%s 192.0.2.9 1000 80\r\n"
	hello := func(host string) *peer { return l.dial().say(strings.Replace(from, "%s", host, 1)) }
	a, b := hello("1"), hello("2")
	a.get("/").want(t, "200", "ok")
	b.get("/").want(t, "200", "ok")
	if got := hello("1").say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest(); strings.Contains(got, "200") {
		t.Errorf("got %q", got)
	}
	a.get("/").want(t, "200", "ok")
}

func TestACrowdForgetsWhoIsGone(t *testing.T) {
	var c crowd
	four, mapped := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1")
	six, neighbour := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff:1")
	for _, p := range [][2]netip.Addr{{four, mapped}, {six, neighbour}} {
		if !c.add(p[0], 1) || c.add(p[1], 1) {
			t.Errorf("%s and %s do not count as one", p[0], p[1])
		}
		c.remove(p[1])
		if !c.add(p[0], 1) {
			t.Errorf("%s is not forgotten", p[0])
		}
		c.remove(p[0])
	}
	for i := range c.shards {
		if n := len(c.shards[i].n); n > 0 {
			t.Errorf("%d clients are left", n)
		}
	}
}

func TestMemoryLevels(t *testing.T) {
	for _, c := range []struct {
		now        int32
		used, want int64
	}{
		{memoryFine, 84, int64(memoryFine)}, {memoryFine, 85, int64(memoryHigh)}, {memoryFine, 100, int64(memoryOver)},
		{memoryHigh, 79, int64(memoryHigh)}, {memoryHigh, 77, int64(memoryFine)}, {memoryHigh, 100, int64(memoryOver)},
		{memoryOver, 93, int64(memoryOver)}, {memoryOver, 91, int64(memoryHigh)}, {memoryOver, 10, int64(memoryFine)},
	} {
		if got := memoryLevel(c.now, c.used<<20, 100<<20); int64(got) != c.want {
			t.Errorf("from level %d with %d %% in use: got %d, want %d", c.now, c.used, got, c.want)
		}
	}
	if got := memoryLevel(memoryFine, 1<<40, 0); got != memoryFine {
		t.Errorf("without a limit: got %d", got)
	}
}

func TestMemoryIsGivenBackAfterWork(t *testing.T) {
	at := time.Now()
	for _, c := range []struct {
		name   string
		change func(*stock)
		used   int64
		after  time.Duration
		want   bool
	}{
		{"nothing happened", func(*stock) {}, 12 << 20, time.Hour, false},
		{"work, and then silence", func(m *stock) { m.cycles++; m.collected = at.Add(20 * time.Second) }, 13 << 20, 25 * time.Second, true},
		{"the collector is at work", func(m *stock) { m.cycles++; m.collected = at.Add(20 * time.Second) }, 13 << 20, 24 * time.Second, false},
		{"just now", func(m *stock) { m.cycles++ }, 13 << 20, 9 * time.Second, false},
		{"too little to matter", func(m *stock) { m.cycles++ }, 7 << 20, time.Hour, false},
		{"a large heap gave little", func(m *stock) { m.cycles++; m.every, m.left = memoryRarely, 100<<20 }, 110 << 20, time.Minute, false},
		{"and has much more now", func(m *stock) { m.cycles++; m.every, m.left = memoryRarely, 100<<20 }, 130 << 20, time.Minute, true},
		{"short of memory", func(m *stock) { m.level.Store(memoryHigh) }, 13 << 20, 11 * time.Second, true},
	} {
		m := stock{every: memoryBack, gave: at, gaveAt: 7, cycles: 7, collected: at, left: 12 << 20}
		c.change(&m)
		if got := m.due(c.used, at.Add(c.after)); got != c.want {
			t.Errorf("%s: due is %v", c.name, got)
		}
	}
}

func TestShortMemoryEndsKeepAliveThenRefuses(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, bounded("memory: 1TiB", "", o.addr))
	k, idle := l.dial(), l.dial()
	k.get("/").want(t, "200", "ok")
	idle.get("/").want(t, "200", "ok")
	l.proxy.memory.limit.Store(l.proxy.memory.used.Load()) // the watcher must not take it back: see below
	l.proxy.setMemory(memoryHigh)
	r := k.get("/")
	r.want(t, "200", "ok")
	if got := field(r.head, "Connection"); got != "close" && l.proxy.memory.level.Load() >= memoryHigh {
		t.Errorf("Connection: %q", got)
	}
	l.proxy.memory.limit.Store(1) // over, whatever is in use
	for end := time.Now().Add(patience); l.proxy.memory.level.Load() < memoryOver; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the level is never reached")
		}
	}
	if got := l.dial().rest(); !strings.HasSuffix(got, ": memory_limit\n") {
		t.Errorf("got %q", got)
	}
	idle.ended(t)
	l.proxy.memory.limit.Store(1 << 40)
	for end := time.Now().Add(patience); l.proxy.memory.level.Load() > memoryFine; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the level is never left")
		}
	}
	l.dial().get("/").want(t, "200", "ok")
}

func TestARequestOverTheMemoryLimitIsA503(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, bounded("memory: 1TiB", "", o.addr))
	k := l.dial()
	k.get("/").want(t, "200", "ok")
	l.proxy.memory.limit.Store(1)
	l.proxy.memory.level.Store(memoryOver) // clients that are here are not told yet
	k.get("/").want(t, "503", "503 Service Unavailable: memory_limit\n")
	k.ended(t)
}

func TestNoDescriptorForABackendIsA503(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	k := l.dial()
	done := make(chan bool)
	th := l.proxy.threads[0]
	th.loop.Post(func() { close(done) })
	<-done
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Skip(err)
	}
	r := k.get("/")
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	r.want(t, "503", "503 Service Unavailable: no_descriptors\n")
	k.get("/").want(t, "200", "ok")
}

// Who comes while there is no descriptor waits in the queue, and costs nothing.
func TestClientsWaitForADescriptor(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	l.dial().get("/").want(t, "200", "ok")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	low := limit
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Skip(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	to, _ := netip.ParseAddrPort(l.addr)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); l.proxy.count("lbd_accept_pauses_total") < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the listener does not rest")
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	io.WriteString(writer(fd), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	b := make([]byte, 1000)
	if n, err := unix.Read(fd, b); err != nil || !strings.HasPrefix(string(b[:max(0, n)]), "HTTP/1.1 200") {
		t.Errorf("got %q, %v", b[:max(0, n)], err)
	}
}

type writer int

func (w writer) Write(p []byte) (int, error) { return unix.Write(int(w), p) }

func TestAListenerThatDrainsTurnsNewClientsAwayAndTellsOldOnesToGo(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	k, slow := l.dial(), l.dial()
	k.get("/").want(t, "200", "ok")
	slow.get("/").want(t, "200", "ok")
	l.proxy.SetState(lb.State{Listeners: map[string]bool{"web": false}})
	if got := l.dial().rest(); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.HasSuffix(got, ": draining\n") {
		t.Errorf("got %q", got)
	}
	r := k.get("/")
	r.want(t, "200", "ok")
	if got := field(r.head, "Connection"); got != "close" {
		t.Errorf("Connection: %q", got)
	}
	k.ended(t)
	slow.say("GET / HT") // it is not idle any more
	l.proxy.SetState(lb.State{Listeners: map[string]bool{"web": true}})
	slow.ended(t)
	l.proxy.SetState(lb.State{})
	l.dial().get("/").want(t, "200", "ok")
}
