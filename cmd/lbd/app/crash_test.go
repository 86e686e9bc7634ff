package app

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// Of a worker that ended by itself its last requests are known, those under way
// too, and what the runtime said, if it could: of one that an earlier supervisor
// started, and of one that was killed outright.
func TestACrashOfAWorkerIsKept(t *testing.T) {
	s := newSite(t)
	c := s.start()
	for i, as := range []struct {
		signal  syscall.Signal
		adopted bool
		said    string
	}{
		{syscall.SIGABRT, false, "SIGABRT: abort"},
		{syscall.SIGSEGV, false, "SIGSEGV"},
		{syscall.SIGKILL, false, ""},
		{syscall.SIGABRT, true, "SIGABRT: abort"},
		{syscall.SIGKILL, true, ""},
	} {
		if as.adopted {
			c = s.restart(c)
		}
		s.under("/never")
		victim := s.holder()
		syscall.Kill(victim, as.signal)
		var crash lb.Crash
		s.until("its crash is told", func() bool {
			all, err := admin.Dial(s.socket()).Crashes(t.Context())
			if err == nil && len(all) == i+1 {
				crash = all[0]
			}
			return crash.PID == victim
		})
		switch {
		case as.said != "" && (!strings.Contains(crash.Said, as.said) || !strings.Contains(crash.Said, "goroutine ")),
			as.said == "" && crash.Said != "":
			t.Errorf("%v: it said %.200q", as.signal, crash.Said)
		case len(crash.Requests) == 0 || crash.Begun-crash.Ended != 1:
			t.Errorf("%v, adopted %v: %d requests begun, %d ended, kept %v", as.signal, as.adopted, crash.Begun, crash.Ended, crash.Requests)
		case !crash.Requests[0].UnderWay || crash.Requests[0].Path != "/never" || crash.Requests[0].Listener != "web":
			t.Errorf("%v: the last request was %+v", as.signal, crash.Requests[0])
		}
		s.until("it is replaced", func() bool {
			now := s.workers()
			return len(now) == 2 && now[0].State == "ready" && now[1].State == "ready"
		})
	}
}

// Of a worker that panics all of it is kept at once: the panic with the stack of who
// did it, and the stacks of all others; its last requests with their routes, the one
// under way first; and how many there were and failed.
func TestAPanicOfAWorkerIsKeptWithItsLastRequests(t *testing.T) {
	s := newSite(t)
	s.environment = []string{panicEnv + "=1"}
	s.configure(`  - { match: { path: /failing }, respond: { status: 503 } }
  - { match: { path: /never }, filters: [{ burst: {} }], pool: app }`)
	s.start()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for _, path := range []string{"/", "/failing", "/"} {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
	}
	fmt.Fprint(c, "GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
	var all []lb.Crash
	s.until("its crash is told", func() bool {
		all, err = admin.Dial(s.socket()).Crashes(t.Context())
		return err == nil && len(all) > 0
	})
	crash := all[0]
	if !strings.HasPrefix(crash.Said, "panic: as it was told") || !strings.Contains(crash.Said, "app.burst(") || strings.Count(crash.Said, "\ngoroutine ") < 3 {
		t.Errorf("it said %.600q", crash.Said)
	}
	if crash.How != "exit status 2" || crash.Begun != 4 || crash.Ended != 3 || crash.Failed != 1 || len(crash.Requests) != 4 {
		t.Fatalf("%s: %d requests begun, %d ended, %d failed, kept %+v", crash.How, crash.Begun, crash.Ended, crash.Failed, crash.Requests)
	}
	for i, want := range []struct {
		path     string
		status   int
		underWay bool
	}{{"/never", 0, true}, {"/", 200, false}, {"/failing", 503, false}, {"/", 200, false}} {
		r := crash.Requests[i]
		if r.Path != want.path || r.Status != want.status || r.UnderWay != want.underWay || r.Method != "GET" || r.Listener != "web" || !strings.HasPrefix(r.Route, "route:") {
			t.Errorf("request %d: %+v, want %+v", i, r, want)
		}
	}
	if routes := map[string]bool{crash.Requests[0].Route: true, crash.Requests[1].Route: true, crash.Requests[2].Route: true}; len(routes) != 3 {
		t.Errorf("routes %v", routes)
	}
	s.until("it is replaced", func() bool {
		now := s.workers()
		return len(now) == 2 && now[0].State == "ready" && now[1].State == "ready"
	})
	t.Logf("%s: %.60q..., %d bytes of stacks; %d requests, %d failed, the last: %+v", crash.How, crash.Said, len(crash.Said), crash.Begun, crash.Failed, crash.Requests[0])
}

// under begins a request that does not end, after one that does.
func (s *site) under(path string) {
	s.t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	io.Copy(io.Discard, r.Body)
	io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
}

// holder is the only worker with a connection, once its request is with a backend.
func (s *site) holder() (pid int) {
	s.t.Helper()
	s.until("a backend has the request", func() bool {
		all, err := admin.Dial(s.socket()).Backends(s.t.Context())
		active := 0
		for _, b := range all {
			active += b.Active
		}
		return err == nil && active == 1
	})
	s.until("a worker has it", func() bool {
		for _, w := range s.workers() {
			if w.Connections == 1 && w.State == "ready" {
				pid = w.PID
			}
		}
		return pid != 0
	})
	return pid
}
