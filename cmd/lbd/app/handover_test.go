package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// status asks lbd who it is.
func (s *site) status() (started time.Time, err error) {
	r, err := s.admin().Get("http://lbd/v1/status")
	if err != nil {
		return time.Time{}, err
	}
	defer r.Body.Close()
	var status struct{ Started time.Time }
	return status.Started, json.NewDecoder(r.Body).Decode(&status)
}

// upgradeTo orders an upgrade and returns what lbd answers.
func (s *site) upgradeTo(binary string) (int, string) {
	s.t.Helper()
	r, err := s.admin().Post("http://lbd/v1/upgrade", "application/json", strings.NewReader(fmt.Sprintf(`{"binary":%q}`, binary)))
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(text)
}

// script is a program that does what body says and else what lbd does.
func (s *site) script(body string) string {
	s.t.Helper()
	lbd, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	// Workers are nobody: what they execute by a path must be open to them.
	if err := os.Chmod(s.dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	program, err := os.ReadFile(lbd)
	lbd, path := filepath.Join(s.dir, "lbd"), filepath.Join(s.dir, "next")
	if err := errors.Join(err, os.WriteFile(lbd, program, 0o755)); err != nil {
		s.t.Fatal(err)
	}
	text := "#!/bin/sh\n" + body + "\nexec " + lbd + " \"$@\"\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// poll asks the admin API all the time; the function it returns ends that and
// tells how often it had no answer.
func (s *site) poll() func() (asked, failed int) {
	stop := make(chan struct{})
	var asked, failed int
	var work sync.WaitGroup
	work.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			asked++
			if _, err := s.status(); err != nil {
				failed++
				s.t.Log(err)
			}
		}
	})
	return func() (int, int) { close(stop); work.Wait(); return asked, failed }
}

func TestAnUpgradeReplacesTheSupervisorToo(t *testing.T) {
	const upgrades = 4
	s := newSite(t)
	c := s.start()
	l := s.load(4)
	polled := s.poll()
	for range upgrades {
		was, err := s.status()
		if err != nil {
			t.Fatal(err)
		}
		c.Process.Signal(syscall.SIGUSR2)
		s.until("another program runs in the same process", func() bool {
			now, err := s.status()
			return err == nil && now.After(was)
		})
		s.until("it serves", func() bool {
			r, err := s.admin().Get("http://lbd/readyz")
			if err != nil {
				return false
			}
			r.Body.Close()
			return r.StatusCode == http.StatusOK
		})
	}
	if asked, failed := polled(); failed > 0 {
		t.Errorf("the admin API had no answer %d times of %d", failed, asked)
	}
	l.endUnfailed(t)
	s.until("old crews are gone", func() bool { return len(s.pids()) == 2 })
	s.until("the supervisor has no children but its two workers", func() bool { return len(children(c.Process.Pid)) == 2 })
	t.Logf("%d requests, %d failed", l.sent.Load(), l.failed.Load())
	c.Process.Signal(syscall.SIGTERM)
	s.until("no worker is left", func() bool {
		left, _ := filepath.Glob(filepath.Join(s.dir, "run", "*.sock"))
		return len(left) == 0
	})
}

func children(pid int) []string {
	var all []string
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		all = append(all, strings.Fields(string(text))...)
	}
	return all
}

// Whatever the next program does wrong, somebody supervises and no request
// fails.
func TestABrokenProgramIsNotUpgradedTo(t *testing.T) {
	for _, c := range []struct {
		name, body string
		says       string // at once; "": the order is accepted
		then       string // logged later
	}{
		{"it is no program", "exit 1", "it does not start here", ""},
		{"it refuses the configuration", "[ $1 = trial ] && { echo 'lbd.yaml:7: LB1103 no' >&2; exit 3; }", "LB1103", ""},
		{"it speaks another version", `[ $1 = trial ] && { echo '{"version":"9","handover":99,"control":99}'; exit 0; }`, "version 99 of the handover", ""},
		{"its workers end at once", "[ $1 = worker ] && exit 1", "ended at its start", ""},
		{"it meets an error after it took over", `case "$LBD_HANDOVER" in *trouble*) ;; ?*) set -- run -c /nowhere;; esac`, "", "the old one goes on"},
		{"it dies after it took over", "[ $1 = run ] && kill -9 $$", "", "it ended before it served"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.start()
			l := s.load(2)
			code, text := s.upgradeTo(s.script(c.body))
			if c.says != "" && (code == http.StatusOK || !strings.Contains(text, c.says)) || c.says == "" && code != http.StatusOK {
				t.Errorf("got %d %s, want %q", code, text, c.says)
			}
			if c.then != "" {
				s.until("it says: "+c.then, func() bool { return strings.Contains(s.out.String(), c.then) })
			}
			s.until("somebody supervises two ready workers", func() bool {
				ready := 0
				for _, w := range s.workers() {
					if w.State == "ready" {
						ready++
					}
				}
				return ready == 2
			})
			l.endUnfailed(t)
		})
	}
}
