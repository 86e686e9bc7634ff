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
