package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

func lookUp(t testing.TB) *topology {
	t.Helper()
	top, err := parseTopology(topologyText)
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func TestTopologyRefusesNonsense(t *testing.T) {
	for text, want := range map[string]string{
		"machines: [{ name: r, role: router }, { name: r2, role: router }]":                                  "2 routers",
		"machines: [{ name: a, role: node, link: 10.0.0.0/24 }]":                                             "a: link 10.0.0.0/24 is not a /30",
		"machines: [{ name: a, role: node, link: 10.0.0.0/30 }, { name: b, role: node, link: 10.0.0.0/30 }]": "a and b share",
		"machine: []": "read topology",
	} {
		if _, err := parseTopology([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestNodeConfigurationsAreValid(t *testing.T) {
	top := lookUp(t)
	l := &lab{world: &world{topology: top, dir: "/tmp/x", pins: "/sys/fs/bpf/x"}}
	for _, m := range top.role("node") {
		c, err := lb.Parse(l.config(m), lb.Options{File: m.Name + ".yaml"})
		if err != nil {
			t.Fatal(err)
		}
		if c.Node.Name != m.Name || c.Node.Address != m.address() || len(c.Cluster.Join) != 2 || len(c.Pools[0].Backends) != 3 {
			t.Errorf("%s: %+v", m.Name, c)
		}
	}
}

func TestTheVagrantfileIsFresh(t *testing.T) {
	var want bytes.Buffer
	if err := writeVagrantfile(&want, lookUp(t)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../vagrant/Vagrantfile")
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("stale (%v): go run ./bench/lab vagrantfile > vagrant/Vagrantfile", err)
	}
	ruby, err := exec.LookPath("ruby")
	if err != nil {
		t.Skip("syntax not checked: no ruby here")
	}
	if out, err := exec.Command(ruby, "-c", "../../vagrant/Vagrantfile").CombinedOutput(); err != nil {
		t.Errorf("ruby -c: %v: %s", err, out)
	}
}

// proxied is an origin behind what a test makes of its listener.
func proxied(t *testing.T) (*httptest.Server, netip.AddrPort) {
	s := httptest.NewServer(origin("edge-1"))
	t.Cleanup(s.Close)
	return s, netip.MustParseAddrPort(s.Listener.Addr().String())
}

func TestLoadCountsWhatLands(t *testing.T) {
	_, target := proxied(t)
	l := newLoad(target)
	l.one(t.Context())
	l.hold(t.Context(), make([]int, 20), 4)
	l.again(4)
	if flows := l.flows(); len(flows) != 20 || flows[0].Kind != held || flows[0].Node != "edge-1" || len(ports(flows, held)) != 20 {
		t.Errorf("flows: %+v", flows)
	}
	l.release()
	r := l.take()
	want := map[string]tally{short: {Opened: 1, Requests: 1, Ended: 1}, held: {Opened: 20, Requests: 40, Ended: 20}}
	for kind, got := range r.Kinds {
		got.Slowest = 0
		r.Kinds[kind] = got
	}
	if r.Kinds[short] != want[short] || r.Kinds[held] != want[held] || r.Nodes["edge-1"] != 21 || len(r.Failures) != 0 {
		t.Errorf("report: %+v", r)
	}
	if again := l.take(); again.all() != (tally{}) {
		t.Errorf("after take: %+v", again)
	}
}

func TestLoadNoticesEveryWayToLoseAConnection(t *testing.T) {
	reset := func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }
	request := func(c net.Conn) { c.Read(make([]byte, 1024)) }
	for _, test := range []struct {
		name  string
		serve func(net.Conn)
		stage string
		reset bool
	}{
		{"reset before the response", func(c net.Conn) { request(c); reset(c) }, "response", true},
		{"closed before the response", func(c net.Conn) { request(c); c.Close() }, "response", false},
		{"an error status", func(c net.Conn) {
			request(c)
			io.WriteString(c, "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")
			c.Close()
		}, "response", false},
		{"cut in the body", func(c net.Conn) {
			request(c)
			io.WriteString(c, "HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nhalf")
			c.Close()
		}, "response", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				if c, err := listener.Accept(); err == nil {
					test.serve(c)
				}
			}()
			l := newLoad(netip.MustParseAddrPort(listener.Addr().String()))
			l.one(t.Context())
			r := l.take()
			if len(r.Failures) != 1 || r.Failures[0].Stage != test.stage || r.Failures[0].Reset != test.reset || r.Failures[0].Port == 0 {
				t.Errorf("got %+v", r)
			}
		})
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	l := newLoad(netip.MustParseAddrPort(closed.Addr().String()))
	l.one(t.Context())
	if r := l.take(); len(r.Failures) != 1 || r.Failures[0].Stage != "connect" || r.all().Reset != 1 {
		t.Errorf("refused: %+v", r)
	}
}

func TestAConnectionThatIsAskedToGoHasMoved(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked == 2 {
			w.Header().Set("Connection", "close")
		}
		io.WriteString(w, r.URL.String())
	}))
	defer s.Close()
	l := newLoad(netip.MustParseAddrPort(s.Listener.Addr().String()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.runKeep(ctx) }()
	for enough := false; !enough; time.Sleep(time.Millisecond) {
		mu.Lock()
		enough = asked > 3
		mu.Unlock()
	}
	cancel()
	<-done
	if r := l.take(); r.Kinds[keep].Moved != 1 || r.Kinds[keep].Opened != 2 || r.all().Failed != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestAStreamThatEndsIsAFailure(t *testing.T) {
	s, target := proxied(t)
	l := newLoad(target)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.runStream(ctx) }()
	for len(l.flows()) == 0 || l.flows()[0].Node == "" {
		time.Sleep(time.Millisecond)
	}
	s.CloseClientConnections()
	for len(l.failures()) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	if r := l.take(); r.Failures[0].Stage != "stream" {
		t.Errorf("got %+v", r)
	}
}

func (l *load) failures() []failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tally.Failures
}

func TestTheLoadTakesOrders(t *testing.T) {
	_, target := proxied(t)
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- serveLoad(ctx, socket, target) }()
	c := newLoadClient(socket)
	defer c.http.CloseIdleConnections()
	for c.do("/flows", order{}, nil) != nil {
		time.Sleep(time.Millisecond)
	}
	var flows []liveFlow
	if err := c.do("/hold", order{N: 5, AtOnce: 2}, &flows); err != nil || len(flows) != 5 {
		t.Errorf("hold: %v, %v", flows, err)
	}
	if err := c.do("/rest", order{Ports: []int{0, 0}}, &flows); err != nil || len(flows) != 2 || flows[0].Node != "edge-1" {
		t.Errorf("rest: %v, %v", flows, err)
	}
	if err := c.do("/steady", order{PerSecond: 100, Keep: 2, Streams: 2}, nil); err != nil {
		t.Error(err)
	}
	var sum report
	for sum.Kinds[short].Ended < 5 || sum.Kinds[keep].Requests < 2 || sum.Kinds[stream].Requests < 2 {
		r, err := c.take()
		if err != nil {
			t.Fatal(err)
		}
		sum.add(r)
		time.Sleep(10 * time.Millisecond)
	}
	if sum.all().Failed != 0 || sum.Kinds[stream].Live != 2 {
		t.Errorf("got %+v", sum)
	}
	if err := c.do("/nonsense", order{}, nil); err == nil {
		t.Error("nonsense was accepted")
	}
	cancel()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// TestLandedKnowsWhoAccepted asks about this process, whose connections the
// runtime's own epoll instance watches.
func TestLandedKnowsWhoAccepted(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	vip := netip.MustParseAddrPort(listener.Addr().String())
	mine := map[uint16]bool{}
	for i := range 10 {
		c, err := net.Dial("tcp4", vip.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i < 6 {
			s, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			mine[netip.MustParseAddrPort(s.RemoteAddr().String()).Port()] = true
		}
	}
	on, err := landed(vip, []int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if len(on.accepted) != 6 || len(on.queued) != 4 || len(on.strange) != 0 {
		t.Fatalf("got %+v", on)
	}
	for port, th := range on.accepted {
		if !mine[port] || th.pid != os.Getpid() || th.epoll == 0 {
			t.Errorf("port %d: %+v", port, th)
		}
	}
	for _, port := range on.queued {
		if mine[port] {
			t.Errorf("port %d was accepted", port)
		}
	}
}

func TestJudgeKill(t *testing.T) {
	killed := time.Unix(1000, 0)
	on := landing{accepted: map[uint16]thread{1: {pid: 7}, 2: {pid: 8}}, queued: []uint16{3}}
	fail := func(port int, opened time.Time) report {
		return report{Failures: []failure{{Port: port, Opened: opened}}}
	}
	for _, test := range []struct {
		name string
		r    report
		held string // one letter per verdict
	}{
		{"nothing failed", report{}, "yyy"},
		{"the victim's own failed", fail(1, killed.Add(-1)), "yyy"},
		{"another worker's failed", fail(2, killed.Add(-1)), "nyy"},
		{"one nobody knows failed", fail(4, killed.Add(-1)), "nyy"},
		{"one in the queue failed", fail(3, killed.Add(-1)), "yyn"},
		{"a new one failed, from an old port", fail(1, killed.Add(1)), "yny"},
	} {
		var got strings.Builder
		for _, v := range judgeKill(test.r, on, 7, killed) {
			got.WriteByte("ny"[map[bool]int{true: 1}[v.held]])
		}
		if got.String() != test.held {
			t.Errorf("%s: got %s, want %s", test.name, got.String(), test.held)
		}
	}
}

func TestJudgeLoss(t *testing.T) {
	died := time.Unix(1000, 0)
	fail := func(node string, opened time.Time) report {
		return report{Failures: []failure{{Node: node, Opened: opened}}}
	}
	for _, test := range []struct {
		name string
		r    report
		held string
	}{
		{"nothing failed", report{}, "yy"},
		{"its own failed", fail("dead", died.Add(-1)), "yy"},
		{"one that had no answer yet failed", fail("", died.Add(-1)), "yy"},
		{"another node's failed", fail("other", died.Add(-1)), "ny"},
		{"a new one failed", fail("", died.Add(1)), "yn"},
	} {
		var got strings.Builder
		for _, v := range judgeLoss(test.r, "dead", 1, died) {
			got.WriteByte("ny"[map[bool]int{true: 1}[v.held]])
		}
		if got.String() != test.held {
			t.Errorf("%s: got %s, want %s", test.name, got.String(), test.held)
		}
	}
}

func TestJudgeCells(t *testing.T) {
	for _, test := range []struct {
		cells map[string]int
		held  string
	}{
		{map[string]int{"a": 100, "b": 100}, "yy"},
		{map[string]int{"a": 110, "b": 90}, "yy"},
		{map[string]int{"a": 111, "b": 89}, "yn"},
		{map[string]int{"a": 100, "b": 99}, "ny"},
		{map[string]int{"a": 200}, "nn"},
		{nil, "nn"},
	} {
		var got strings.Builder
		for _, v := range judgeCells(test.cells, 2, 200) {
			got.WriteByte("ny"[map[bool]int{true: 1}[v.held]])
		}
		if got.String() != test.held {
			t.Errorf("%v: got %s, want %s", test.cells, got.String(), test.held)
		}
	}
}

// TestTheWorldLosesConnectionsWithoutUs builds the namespaces with plain
// servers in lbd's place: traffic flows and spreads, and a shift of the
// router's next hops resets connections. So the tour's zero means something.
func TestTheWorldLosesConnectionsWithoutUs(t *testing.T) {
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("namespaces need root, and time")
	}
	self := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.Command("go", "build", "-o", self, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	w, err := newWorld(lookUp(t), fmt.Sprintf("lab%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(netnsDir, w.prefix+"*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}()
	if err := w.build(); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.role("node") {
		if err := ip("-n %s address add %s/32 dev lo", w.namespace(m), w.VIP.Addr()); err != nil {
			t.Fatal(err)
		}
		if err := w.start(m, m.Name, self, "origin", m.Name, w.VIP.String()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.start(w.byName("client"), "load", self, "load", w.path("load.sock"), w.VIP.String()); err != nil {
		t.Fatal(err)
	}
	l := &lab{world: w, load: newLoadClient(w.path("load.sock"))}
	if err := l.until(t.Context(), settleTime, "load and servers answer", func() error {
		if err := l.load.do("/hold", order{N: 20, AtOnce: 20}, nil); err != nil {
			return err
		}
		r, err := l.load.take()
		if err == nil && (r.all().Failed > 0 || len(r.Nodes) < 3) {
			err = fmt.Errorf("%+v", r)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var flows []liveFlow
	if err := l.load.do("/hold", order{N: 300, AtOnce: 16}, &flows); err != nil {
		t.Fatal(err)
	}
	before, err := l.entrances(ports(flows, held)[:5])
	if err != nil {
		t.Fatal(err)
	}
	if err := w.announce(1); err != nil {
		t.Fatal(err)
	}
	after, err := l.entrances(ports(flows, held)[:5])
	if err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if before[i] == after[i] {
			t.Errorf("flow %d still enters through %s", i, before[i])
		}
	}
	if err := l.load.do("/again", order{AtOnce: 16}, nil); err != nil {
		t.Fatal(err)
	}
	r, err := l.load.take()
	if err != nil || r.all().Reset < 300 {
		t.Errorf("%d resets, %v: plain ECMP should have lost every connection", r.all().Reset, err)
	}
	if err := l.kill("edge-1"); err != nil {
		t.Error(err)
	}
}
