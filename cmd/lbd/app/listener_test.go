package app

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// orderListener drains a listener, or takes that back.
func (s *site) orderListener(name string, drain bool) error {
	return admin.Dial(s.socket()).OrderListener(s.t.Context(), admin.ListenerOrder{Name: name, Drain: drain}, admin.Ask{})
}

// listener is what status says of one.
func (s *site) listener(name string) (l admin.Listener) {
	now, err := admin.Dial(s.socket()).Status(s.t.Context())
	if err != nil {
		return l
	}
	i := slices.IndexFunc(now.Listeners, func(l admin.Listener) bool { return l.Name == name })
	if i >= 0 {
		l = now.Listeners[i]
	}
	return l
}

// told are the kinds of events about a subject, in order.
func (s *site) told(subject string) (kinds []string) {
	s.t.Helper()
	all, err := admin.Dial(s.socket()).Events(s.t.Context(), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range all {
		if e.Subject == subject {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (s *site) refuses() bool {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), 5*time.Second)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// A listener that drains turns new clients away, lets old ones finish, counts
// them down, and closes its sockets: who comes is refused then. It stays so over a
// reload, a worker's death, an upgrade, a supervisor's death and a start anew.
func TestAListenerThatHasDrainedIsClosedUntilItIsUndrained(t *testing.T) {
	s := newSite(t)
	c := s.start()
	var slow []chan error
	for range 2 {
		done := make(chan error, 1)
		slow = append(slow, done)
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
		t.Cleanup(func() { conn.Close() })
		go func() { // it ends its request when the listener drains
			s.until("it drains", func() bool { return s.listener("web").Drain == "draining" })
			fmt.Fprint(conn, "b")
			_, err := fmt.Fscanf(conn, "HTTP/1.1 200 OK")
			done <- err
		}()
	}
	s.until("they are counted", func() bool { return s.listener("web").Connections == 2 })
	if err := s.orderListener("web", true); err != nil {
		t.Fatal(err)
	}
	for _, done := range slow {
		if err := <-done; err != nil {
			t.Errorf("a request that was here: %v", err)
		}
	}
	s.until("it is closed", func() bool { return s.listener("web").Drain == "closed" })
	if l := s.listener("web"); l.Connections != 0 || l.Slots != 0 {
		t.Errorf("closed, it has %v connections and %d slots", l.Connections, l.Slots)
	}
	if want := []string{"listener.drain", "listener.empty", "listener.closed"}; !slices.Equal(s.told("web"), want) {
		t.Errorf("told %v, want %v", s.told("web"), want)
	}
	stays := func(after string) {
		t.Helper()
		if !s.refuses() {
			t.Errorf("after %s somebody who comes is not refused", after)
		}
	}
	stays("the drain")
	if r, err := s.admin().Get("http://lbd/readyz"); err != nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("no listener serves, and /readyz says %v, %v", r, err)
	}
	s.configure("  - match: { path: /gone }\n    respond: { status: 410 }")
	if err := s.order("POST", "/v1/config/reload", ""); err != nil {
		t.Fatal(err)
	}
	stays("a reload")
	old := s.pids()
	syscall.Kill(old[0], syscall.SIGKILL)
	s.until("the worker is replaced", func() bool {
		now := s.workers()
		return len(now) == 2 && now[0].PID != old[0] && now[0].State == "ready"
	})
	stays("a worker's death")
	c.Process.Signal(syscall.SIGUSR2)
	s.until("another crew serves alone", func() bool {
		now := s.pids()
		return len(now) == 2 && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(old, pid) })
	})
	stays("an upgrade")
	s.refusesWhile(t, "another supervisor adopts", func() { c.Process.Kill(); s.startUnready() })
	stays("a supervisor's death")
	s.refusesWhile(t, "all is started anew", func() { s.killSupervisors(); s.killWorkers(); s.startUnready() })
	stays("a start anew")

	if err := s.orderListener("web", false); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if got := text(http.DefaultClient, s.url()); !strings.HasPrefix(got, "backend") {
			t.Fatalf("undrained, it says %q", got)
		}
	}
	if l := s.listener("web"); l.Drain != "" || l.Slots != 4 {
		t.Errorf("undrained, it is %q with %d slots", l.Drain, l.Slots)
	}
}

// refusesWhile looks that nobody who comes meanwhile gets in.
func (s *site) refusesWhile(t *testing.T, what string, do func()) {
	t.Helper()
	stop, done := make(chan bool), make(chan int)
	go func() {
		in := 0
		for {
			select {
			case <-stop:
				done <- in
				return
			default:
				if !s.refuses() {
					in++
				}
			}
		}
	}()
	do()
	close(stop)
	if in := <-done; in > 0 {
		t.Errorf("while %s %d were not refused", what, in)
	}
}

// startUnready starts lbd, whose listeners all drain, so that it is not ready.
func (s *site) startUnready() {
	s.t.Helper()
	c := s.command("run", "-c", s.file())
	s.until("the one before is gone", func() bool {
		r, err := s.admin().Get("http://lbd/v1/status")
		if err == nil {
			r.Body.Close()
		}
		return err != nil
	})
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	go c.Wait()
	s.t.Cleanup(func() { c.Process.Kill() })
	s.until("the listener is closed", func() bool { return s.listener("web").Drain == "closed" })
}

// Whose time is over is cut, and somebody else's port is no reason to lose it.
func TestAListenerWhoseDrainIsOverdueIsClosedAndMayNotComeBack(t *testing.T) {
	s := newSite(t)
	s.replaceInFile("drain: { timeout: 5s }", "drain: { timeout: 1s }")
	s.start()
	never := s.loadAt("never")
	s.until("somebody waits", func() bool { return s.listener("web").Connections == 1 })
	if err := s.orderListener("web", true); err != nil {
		t.Fatal(err)
	}
	s.until("it is closed", func() bool { return s.listener("web").Drain == "closed" })
	never.end()
	if kinds := s.told("web"); !slices.Contains(kinds, "listener.drain-overdue") || !slices.Contains(kinds, "listener.closed") {
		t.Errorf("told %v", kinds)
	}
	thief, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	if err := s.orderListener("web", false); err == nil || !strings.Contains(err.Error(), "in use by") {
		t.Errorf("somebody else has the port, and it says: %v", err)
	}
	if got := s.listener("web").Drain; got != "closed" {
		t.Errorf("then it is %q", got)
	}
	thief.Close()
	if err := s.orderListener("web", false); err != nil {
		t.Error(err)
	}
	if got := text(http.DefaultClient, s.url()); !strings.HasPrefix(got, "backend") {
		t.Errorf("it says %q", got)
	}
}

// replaceInFile edits the configuration.
func (s *site) replaceInFile(old, new string) {
	s.t.Helper()
	data, err := os.ReadFile(s.file())
	if err == nil {
		err = os.WriteFile(s.file(), []byte(strings.Replace(string(data), old, new, 1)), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
