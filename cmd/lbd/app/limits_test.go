package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A supervisor that may open no more files, or only a few more, makes a change
// whole or refuses it with the reason; workers and their clients do not notice.
func TestWithoutDescriptorsAChangeIsRefusedWhole(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := newSite(t)
	l := &ledger{site: s}
	if err := os.WriteFile(s.file(), []byte(l.alone()+l.objects(0)), 0o644); err != nil {
		t.Fatal(err)
	}
	c := s.start()
	for _, err := range []error{s.order("POST", "/v1/config/adopt", ""), s.order("PUT", "/v1/config", l.objects(0))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var before unix.Rlimit
	if err := unix.Prlimit(c.Process.Pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	traffic := s.load(2)
	made, refused, unheard := 0, 0, 0
	for more := range 14 {
		s.admin().CloseIdleConnections()
		limit := before
		limit.Cur = s.roomFor(c.Process.Pid, more)
		if err := unix.Prlimit(c.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Fatal(err)
		}
		next := l.document + 1
		// Another listener every time: it takes sockets.
		text := strings.Replace(l.objects(next), "routes:", fmt.Sprintf("  more: { bind: \"127.0.0.1:%d\" }\nroutes:", freePort(t)), 1)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		verdict := s.put(ctx, text)
		cancel()
		if err := unix.Prlimit(c.Process.Pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
			t.Fatal(err)
		}
		switch {
		case verdict == "200":
			made++
		case strings.Contains(verdict, "too many open files"):
			refused++
		case strings.Contains(verdict, "deadline") || strings.Contains(verdict, "EOF") || strings.Contains(verdict, "reset"):
			unheard++ // it could not even be accepted, or not be told
		default:
			t.Errorf("with %d more files: %s", more, verdict)
		}
		var served string
		// What was not heard may be carried out now.
		s.until("one document is here and served", func() bool {
			served = s.which()
			return served == s.shown()
		})
		if verdict == "200" {
			l.document = next
		}
		if served != fmt.Sprint(l.document) {
			if strings.Contains(verdict, "too many open files") || verdict == "200" || served != fmt.Sprint(next) {
				t.Errorf("with %d more files: %s is served, %d was acknowledged; it said %s", more, served, l.document, verdict)
			}
			l.document = next
		}
	}
	traffic.endUnfailed(t)
	if refused == 0 || made == 0 {
		t.Error("the limits were not near what a change needs")
	}
	t.Logf("%d changes made, %d refused for want of descriptors, %d not heard; %d requests, %d failed", made, refused, unheard, traffic.sent.Load(), traffic.failed.Load())
}

// roomFor is a limit of descriptors that leaves a process so many free ones.
func (s *site) roomFor(pid, free int) (limit uint64) {
	s.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	used := map[string]bool{}
	for _, f := range all {
		used[f.Name()] = true
	}
	for ; free >= 0; limit++ {
		if !used[fmt.Sprint(limit)] {
			free--
		}
	}
	return limit - 1
}

// put applies a document; it gives 200 or what went wrong.
func (s *site) put(ctx context.Context, text string) string {
	req, err := http.NewRequestWithContext(ctx, "PUT", "http://lbd/v1/config", strings.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := s.admin().Do(req)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return fmt.Sprintf("%s %s %v", r.Status, body, err)
	}
	return "200"
}

// which is the number of the document that workers serve.
func (s *site) which() string { return text(&http.Client{Timeout: 10 * time.Second}, s.url()+"which") }

// shown is the number of the document that the supervisor shows.
func (s *site) shown() string {
	_, after, _ := strings.Cut(text(s.admin(), "http://lbd/v1/config"), `body: "`)
	number, _, _ := strings.Cut(after, `"`)
	return number
}

func text(c *http.Client, url string) string {
	r, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// A file that ends at any byte is refused, or taken as the document that it is:
// what runs is one or the other, whole.
func TestAFileThatEndsAnywhereIsRefusedOrTakenWhole(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := newSite(t)
	l := &ledger{site: s}
	whole := strings.Replace(l.alone(), "}\n", "}\n# a comment\n", 1) + l.objects(1)
	if err := os.WriteFile(s.file(), []byte(whole), 0o644); err != nil {
		t.Fatal(err)
	}
	s.start()
	crew := s.pids()
	runs, taken, refused := whole, 0, 0
	for n := range len(whole) {
		torn := whole[:n]
		if err := os.WriteFile(s.file(), []byte(torn), 0o644); err != nil {
			t.Fatal(err)
		}
		err := s.order("POST", "/v1/config/reload", "")
		if err == nil {
			runs = torn
			taken++
		} else {
			refused++
			if !strings.Contains(err.Error(), "is unchanged") {
				t.Errorf("the first %d bytes: %v", n, err)
			}
		}
		if got := text(s.admin(), "http://lbd/v1/config"); got != runs {
			t.Fatalf("after the first %d bytes (%v) this runs:\n%s\nwant\n%s", n, err, got, runs)
		}
	}
	if got := s.pids(); !slices.Equal(got, crew) {
		t.Errorf("workers %v, they were %v", got, crew)
	}
	if err := os.WriteFile(s.file(), []byte(whole), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.order("POST", "/v1/config/reload", ""); err != nil {
		t.Error(err)
	}
	s.until("the whole file is served", func() bool { return s.which() == "1" })
	t.Logf("%d refused, %d taken as they are", refused, taken)
}
