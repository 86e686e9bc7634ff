package app

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
)

// systemd is as much of it as lbd talks to: it hears, and keeps descriptors.
type systemd struct {
	t     *testing.T
	conn  *net.UnixConn
	path  string
	names []string
	files []*os.File
}

func newSystemd(t *testing.T, dir string) *systemd {
	t.Helper()
	path := filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s := &systemd{t: t, conn: c, path: path}
	t.Cleanup(func() {
		c.Close()
		for _, f := range s.files {
			f.Close()
		}
	})
	return s
}

// hear waits for a message that begins so, and returns the rest of it.
func (s *systemd) hear(begin string) string {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		buf, oob := make([]byte, 4096), make([]byte, 256)
		n, o, _, _, err := s.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			s.t.Fatalf("nothing begins with %s: %v", begin, err)
		}
		text := string(buf[:n])
		if messages, err := unix.ParseSocketControlMessage(oob[:o]); err == nil && len(messages) > 0 {
			fds, _ := unix.ParseUnixRights(&messages[0])
			_, name, _ := strings.Cut(text, "FDNAME=")
			for _, fd := range fds {
				s.names, s.files = append(s.names, name), append(s.files, os.NewFile(uintptr(fd), name))
			}
		}
		if name, ok := strings.CutPrefix(text, "FDSTOREREMOVE=1\nFDNAME="); ok {
			s.remove(name)
		}
		if rest, ok := strings.CutPrefix(text, begin); ok {
			return rest
		}
	}
}

// remove closes what is kept by a name.
func (s *systemd) remove(name string) {
	for i := len(s.names) - 1; i >= 0; i-- {
		if s.names[i] == name {
			s.files[i].Close()
			s.names, s.files = slices.Delete(s.names, i, i+1), slices.Delete(s.files, i, i+1)
		}
	}
}

// run starts lbd as systemd would, with what is stored.
func (s *systemd) run(at *site) *exec.Cmd {
	s.t.Helper()
	c := at.command("run", "-c", at.file())
	c.Args = []string{"sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh", c.Path, "run", "-c", at.file()}
	c.Path = "/bin/sh"
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.path, "WATCHDOG_USEC=300000",
		fmt.Sprintf("LISTEN_FDS=%d", len(s.files)), "LISTEN_FDNAMES="+strings.Join(s.names, ":"))
	c.ExtraFiles = s.files
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		c.Process.Kill()
		c.Process.Wait() // not c.Wait: workers hold its output
		if s.t.Failed() {
			s.t.Log(at.out.String())
		}
	})
	return c
}

func TestSystemdIsToldAndKeepsTheAdminListeners(t *testing.T) {
	s := newSite(t)
	sd := newSystemd(t, s.dir)
	c := sd.run(s)
	sd.hear("READY=1")
	sd.hear("FDSTORE=1")
	sd.hear("WATCHDOG=1")
	sd.hear("WATCHDOG=1")
	if want := "admin=" + s.socket(); len(sd.names) != 1 || sd.names[0] != want {
		t.Fatalf("stored %v, want %s", sd.names, want)
	}

	c.Process.Kill()
	c.Process.Wait()                           // not c.Wait: workers hold its output
	waits, err := net.Dial("unix", s.socket()) // nobody serves it now
	if err != nil {
		t.Fatalf("while no supervisor runs: %v", err)
	}
	defer waits.Close()
	fmt.Fprint(waits, "GET /readyz HTTP/1.0\r\n\r\n")

	c = sd.run(s)
	sd.hear("READY=1")
	answer := make([]byte, 12)
	waits.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := waits.Read(answer); err != nil || string(answer) != "HTTP/1.0 200" && string(answer) != "HTTP/1.0 503" {
		t.Errorf("who asked meanwhile got %q, %v", answer, err)
	}
	c.Process.Signal(unix.SIGTERM)
	sd.hear("FDSTOREREMOVE=1")
	sd.hear("STOPPING=1")
	c.Process.Wait()
}

// When a successor dies without a word its guard becomes the supervisor: in
// another process, which systemd is told of before it serves.
func TestSystemdIsToldWhenAGuardBecomesTheSupervisor(t *testing.T) {
	s := newSite(t)
	sd := newSystemd(t, s.dir)
	next := s.script(`[ "$1" = run ] && kill -9 $$`)
	c := sd.run(s)
	sd.hear("READY=1")
	l := s.load(2)
	upgraded := make(chan int)
	go func() { code, _ := s.upgradeTo(next); upgraded <- code }()
	pid, err := strconv.Atoi(sd.hear("MAINPID="))
	if code := <-upgraded; code != http.StatusOK {
		t.Errorf("the upgrade is answered with %d", code)
	}
	c.Process.Wait()
	if err != nil || pid == c.Process.Pid {
		t.Fatalf("the main process is %d (%v), was %d", pid, err, c.Process.Pid)
	}
	sd.hear("READY=1")
	if got := worker.LockedBy(filepath.Join(s.dir, "run")); got != pid {
		t.Errorf("process %d supervises, systemd was told of %d", got, pid)
	}
	l.endUnfailed(t)
}

// What systemd stops to start again leaves its workers, fresh ones, and its admin
// listeners to whom it starts; what it stops ends.
func TestARestartBySystemdDropsNothingAndAStopEndsAll(t *testing.T) {
	s := newSite(t)
	sd := newSystemd(t, s.dir)
	jobs := filepath.Join(s.dir, "bin")
	job := func(kind string) {
		t.Helper()
		text := "#!/bin/sh\nfor unit; do :; done\necho 41 other.service start waiting\necho 42 $unit " + kind + " running\n"
		if err := errors.Join(os.MkdirAll(jobs, 0o755), os.WriteFile(filepath.Join(jobs, "systemctl"), []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", jobs+":"+os.Getenv("PATH"))
	job("restart")
	c := sd.run(s)
	sd.hear("READY=1")
	sd.hear("FDSTORE=1")
	before := s.pids()
	l := s.load(4)
	for range 2 {
		c.Process.Signal(unix.SIGTERM)
		c.Process.Wait()
		c = sd.run(s)
		sd.hear("READY=1")
		if len(sd.names) == 0 {
			t.Fatal("the admin socket was not kept")
		}
	}
	s.until("other workers serve", func() bool {
		now := s.workers()
		return len(now) == 2 && now[0].State == "ready" && now[1].State == "ready" && now[0].Adopted && !slices.Contains(before, now[0].PID) && !slices.Contains(before, now[1].PID)
	})
	l.endUnfailed(t)
	job("stop")
	c.Process.Signal(unix.SIGTERM)
	sd.hear("STOPPING=1")
	c.Process.Wait()
	if left, _ := filepath.Glob(filepath.Join(s.dir, "run", "*.sock")); len(left) != 0 {
		t.Errorf("after a stop there is %v", left)
	}
}

// A systemd that is stuck reads nothing; the eleventh message finds no room. lbd
// starts, changes, is upgraded and ends all the same.
func TestAStuckSystemdKeepsNobodyWaiting(t *testing.T) {
	s := newSite(t)
	sd := newSystemd(t, s.dir)
	full, err := net.Dial("unixgram", sd.path)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for err == nil {
		full.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		_, err = full.Write([]byte("STATUS=full"))
	}
	c := sd.run(s)
	s.until("it serves", s.ready)
	l := s.load(2)
	if err := s.order("POST", "/v1/config/reload", ""); err != nil {
		t.Error(err)
	}
	was, err := s.status()
	if err != nil {
		t.Fatal(err)
	}
	c.Process.Signal(unix.SIGUSR2)
	s.until("another program runs", func() bool {
		now, err := s.status()
		return err == nil && now.After(was) && s.ready()
	})
	l.endUnfailed(t)
	ended := make(chan struct{})
	c.Process.Signal(unix.SIGTERM)
	go func() { c.Process.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it does not end")
	}
	// What must not be lost is said again and again.
	c = sd.run(s)
	s.until("it serves", s.ready)
	sd.hear("READY=1")
	c.Process.Signal(unix.SIGTERM)
	c.Process.Wait()
}

func TestTheWatchdogIsSilentWhenNobodyAsks(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "x": 0, "2000000": 2 * time.Second} {
		t.Setenv("WATCHDOG_USEC", text)
		if got := watchdogInterval(); got != want {
			t.Errorf("WATCHDOG_USEC=%s: %v, want %v", text, got, want)
		}
	}
}
