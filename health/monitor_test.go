package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/cirque-lb/lb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(path string) lb.Check {
	return lb.Check{HTTP: path, Expect: lb.Statuses{{From: 200, To: 299}}, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3}
}

func toProbe(address string) Target {
	return Target{ID: lb.BackendID{Pool: "app", Address: address}, Check: check("/healthz")}
}

// farm is backends on pipes, without sockets or time of their own.
type farm struct {
	mu      sync.Mutex
	status  map[string]int // by address; 0: refuses; -1: never answers
	dialled map[string]int
	flying  int
	most    int
}

func newFarm() *farm { return &farm{status: map[string]int{}, dialled: map[string]int{}} }

func (f *farm) set(address string, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status[address] = status
}

func (f *farm) count(address string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dialled[address]
}

func (f *farm) dial(ctx context.Context, _, address string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialled[address]++
	status := f.status[address]
	if status == 0 {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	ours, theirs := net.Pipe()
	f.flying++
	f.most = max(f.most, f.flying)
	go serve(theirs, status)
	return &counted{Conn: ours, farm: f}, nil
}

// counted is in flight until the prober closes it.
type counted struct {
	net.Conn
	farm *farm
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.farm.mu.Lock(); c.farm.flying--; c.farm.mu.Unlock() })
	return c.Conn.Close()
}

func serve(conn net.Conn, status int) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	if status < 0 {
		io.Copy(io.Discard, conn) // until the prober gives up
		return
	}
	time.Sleep(time.Millisecond)
	fmt.Fprintf(conn, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 %d x\r\nX-Path: %s\r\nContent-Length: 2\r\n\r\nok", status, req.URL.Path)
}

// run has a monitor on the farm's backends in a bubble of synthetic time.
func run(t *testing.T, workers int, test func(f *farm, m *Monitor, changes func() []Change)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm()
		var mu sync.Mutex
		var changes []Change
		m := New(Options{Workers: workers, Dial: f.dial, Changed: func(c Change) {
			mu.Lock()
			changes = append(changes, c)
			mu.Unlock()
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		test(f, m, func() []Change {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(changes)
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// after lets d pass and everything that happens meanwhile happen.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestTheFirstProbeGoesAtOnce(t *testing.T) {
	run(t, 0, func(f *farm, m *Monitor, changes func() []Change) {
		f.set("a:1", 200)
		m.Update([]Target{toProbe("a:1")})
		after(10 * time.Millisecond)
		if got := m.State(); got[toProbe("a:1").ID] != lb.Up || len(got) != 1 {
			t.Errorf("state: %v", got)
		}
		if len(changes()) != 1 || changes()[0].Event().Kind != "backend.up" {
			t.Errorf("changes: %+v", changes())
		}
	})
}

func TestAFailingBackendLeavesInTimeAndReturns(t *testing.T) {
	for _, test := range []struct {
		status int
		why    string
	}{
		{0, "connect: connection refused"},
		{500, "status 500, expected 200-299"},
		{-1, "read response: no answer within 1s"},
	} {
		t.Run(test.why, func(t *testing.T) {
			run(t, 0, func(f *farm, m *Monitor, changes func() []Change) {
				id := toProbe("a:1").ID
				f.set("a:1", 200)
				m.Update([]Target{toProbe("a:1")})
				after(13 * time.Second)
				f.set("a:1", test.status)
				after(3*2*time.Second + time.Second) // fall x interval + timeout
				if got := m.State()[id]; got != lb.Down {
					t.Fatalf("after fall x interval + timeout: %v", got)
				}
				if d := m.Details()[0]; d.Reason != test.why || d.Last[0].OK || d.Streak < 3 {
					t.Errorf("details: %+v", d)
				}
				f.set("a:1", 204)
				after(2*2*time.Second + time.Second)
				if got := m.State()[id]; got != lb.Up {
					t.Errorf("after rise x interval + timeout: %v", got)
				}
				if len(changes()) != 3 {
					t.Errorf("changes: %+v", changes())
				}
			})
		})
	}
}

func TestStateSurvivesAReload(t *testing.T) {
	run(t, 0, func(f *farm, m *Monitor, changes func() []Change) {
		m.Update([]Target{toProbe("a:1"), toProbe("b:1")})
		after(10 * time.Second)
		dialled := f.count("a:1")
		m.Update([]Target{toProbe("a:1")})
		after(time.Millisecond)
		if got := m.State(); got[toProbe("a:1").ID] != lb.Down || len(got) != 1 {
			t.Errorf("state: %v", got)
		}
		if f.count("a:1") != dialled {
			t.Error("a target that stays was probed out of turn")
		}
		other := toProbe("a:1")
		other.Check.Fall = 5
		m.Update([]Target{other})
		if got := m.State()[other.ID]; got != lb.Unknown {
			t.Errorf("with another check: %v", got)
		}
		if d := m.Details(); len(d) != 1 || d[0].Probes != 0 {
			t.Errorf("with another check: %+v", d)
		}
	})
}

func TestTenThousandBackendsShareFewProbes(t *testing.T) {
	run(t, 64, func(f *farm, m *Monitor, changes func() []Change) {
		var targets []Target
		for i := range 10000 {
			address := fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
			f.set(address, 200)
			targets = append(targets, toProbe(address))
		}
		m.Update(targets)
		after(time.Second)
		if len(changes()) != len(targets) {
			t.Errorf("%d of %d are up", len(changes()), len(targets))
		}
		// Nobody is forgotten, nobody is probed too often.
		after(8 * time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.most > 64 {
			t.Errorf("%d probes at once", f.most)
		}
		for address, n := range f.dialled {
			if n < 5 || n > 6 {
				t.Fatalf("%s was probed %d times in 9 s", address, n)
			}
		}
	})
}

func TestATargetThatGoesDuringItsProbeIsForgotten(t *testing.T) {
	run(t, 0, func(f *farm, m *Monitor, changes func() []Change) {
		f.set("a:1", -1)
		m.Update([]Target{toProbe("a:1")})
		after(time.Millisecond)
		m.Update(nil)
		after(time.Minute)
		if f.count("a:1") != 1 || len(m.State()) != 0 || len(m.Details()) != 0 {
			t.Errorf("dialled %d times, state %v", f.count("a:1"), m.State())
		}
		// Back within the flight of its probe, it is probed again.
		m.Update([]Target{toProbe("a:1")})
		after(time.Millisecond)
		m.Update(nil)
		m.Update([]Target{toProbe("a:1")})
		after(time.Minute)
		if n := f.count("a:1"); n < 30 {
			t.Errorf("dialled %d times", n)
		}
	})
}

func TestTCPNeedsOnlyAConnection(t *testing.T) {
	run(t, 0, func(f *farm, m *Monitor, changes func() []Change) {
		f.set("a:1", -1)
		tcp := toProbe("a:1")
		tcp.Check.HTTP, tcp.Check.TCP = "", true
		m.Update([]Target{tcp})
		after(time.Millisecond)
		if got := m.Details()[0]; got.Health != lb.Up || got.Last[0].Detail != "connected" {
			t.Errorf("%+v", got)
		}
	})
}

func TestAnEndlessAnswerIsCutOff(t *testing.T) {
	var sent atomic.Int64
	dial := func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			http.ReadRequest(bufio.NewReader(theirs))
			io.WriteString(theirs, "HTTP/1.1 200 OK\r\n")
			for {
				n, err := io.WriteString(theirs, "X-More: and more\r\n")
				if err != nil {
					return
				}
				sent.Add(int64(n))
			}
		}()
		return ours, nil
	}
	_, err := prober{dial}.probe(t.Context(), toProbe("a:1"))
	if err == nil || sent.Load() > 2*maxAnswer {
		t.Errorf("read %d bytes, error %v", sent.Load(), err)
	}
}

func TestPlainErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "connect: connection refused"},
		{context.DeadlineExceeded, "connect: no answer within 1s"},
		{io.ErrUnexpectedEOF, "connect: connection closed early"},
		{errors.New("odd"), "connect: odd"},
	} {
		if got := plain("connect", test.err, time.Second).Error(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
