package admin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// audited is a fake behind a real socket, with an audit log in a file.
func audited(t *testing.T) (*fake, *Client, *Audit) {
	t.Helper()
	dir := t.TempDir()
	f, a := newFake(), OpenAudit(filepath.Join(dir, "audit.log"))
	t.Cleanup(func() { a.Close() })
	path := filepath.Join(dir, "lbd.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	started(t, func(ctx context.Context) error {
		return Serve(ctx, l, f, Options{Log: slog.New(slog.DiscardHandler), Audit: a})
	})
	return f, Dial(path), a
}

func lines(t *testing.T, path string) []Act {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []Act
	for line := range strings.Lines(string(text)) {
		var a Act
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, a)
	}
	return all
}

func TestEveryAttemptToChangeIsKeptWithWhoTried(t *testing.T) {
	f, c, a := audited(t)
	ctx := t.Context()
	drain := true
	c.Status(ctx)
	c.OrderBackend(ctx, BackendOrder{ID: "app/10.0.0.1:80", Drain: &drain}, Ask{})
	c.Apply(ctx, []byte("pools: {}\n"), "f.yaml", Ask{DryRun: true})
	f.err = &Error{Status: http.StatusConflict, Code: CodeConflict, Detail: "another generation runs"}
	c.Rollback(ctx, RollbackOrder{Generation: "41"}, Ask{Match: "40@edge-1"})
	got := lines(t, a.path)
	if len(got) != 3 {
		t.Fatalf("%d lines, want 3: reading is no change\n%v", len(got), got)
	}
	who := fmt.Sprintf("uid %d (pid %d)", os.Getuid(), os.Getpid())
	for i, want := range []Act{
		{Method: "POST", Path: "/v1/backends/order", About: "backend app/10.0.0.1:80", Order: map[string]any{"id": "app/10.0.0.1:80", "drain": true}},
		{Method: "PUT", Path: "/v1/config?dry_run=true&file=f.yaml", About: "config", Generation: "43@edge-1", DryRun: true,
			Order: map[string]any{"bytes": 10.0, "sha256": fmt.Sprintf("%x", sha256.Sum256([]byte("pools: {}\n")))}},
		{Method: "POST", Path: "/v1/config/rollback", About: "config", Order: map[string]any{"generation": "41"}, Refused: "LB5003 another generation runs"},
	} {
		g := got[i]
		if g.By != who || g.Time.IsZero() || time.Since(g.Time) > time.Minute {
			t.Errorf("line %d: by %s at %s, want %s, now", i, g.By, g.Time, who)
		}
		want.By, want.Time = g.By, g.Time
		if fmt.Sprint(g) != fmt.Sprint(want) {
			t.Errorf("line %d is\n%v, want\n%v", i, g, want)
		}
	}
	if i, err := os.Stat(a.path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v (%v), want 0600", i.Mode(), err)
	}
}

func TestAStoryTellsWhatOperatorsDid(t *testing.T) {
	_, c, _ := audited(t)
	drain := true
	for _, id := range []string{"app/10.0.0.1:80", "app/10.0.0.1:8080", "app/10.0.0.1:80"} {
		if err := c.OrderBackend(t.Context(), BackendOrder{ID: id, Drain: &drain}, Ask{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Story(t.Context(), "app/10.0.0.1:80")
	if err != nil || len(s.Acts) != 2 || s.Acts[0].About != "backend app/10.0.0.1:80" {
		t.Errorf("acts %v, %v; want the two about that backend", s.Acts, err)
	}
}

func TestTheAuditLogIsBoundedAndItsOldestLinesGo(t *testing.T) {
	a := OpenAudit(filepath.Join(t.TempDir(), "audit.log"))
	defer a.Close()
	order := strings.Repeat("x", auditLine/2)
	total := 0
	for ; total < (auditFiles+2)*auditSize/len(order); total++ {
		if err := a.add(Act{About: fmt.Sprint("number ", total), Order: order}); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(a.path + "*")
	if len(files) != auditFiles {
		t.Errorf("%d files, want %d", len(files), auditFiles)
	}
	for _, f := range files {
		if i, err := os.Stat(f); err != nil || i.Size() > auditSize {
			t.Errorf("%s has %d bytes (%v), at most %d are allowed", f, i.Size(), err, auditSize)
		}
	}
	if found, err := a.About(fmt.Sprint("number ", total-1), 5); err != nil || len(found) != 1 {
		t.Errorf("the last act: %v %v", found, err)
	}
	if found, err := a.About("number 0", 5); err != nil || len(found) != 0 {
		t.Errorf("the first act: %v %v", found, err)
	}
}

func TestALongOrderDoesNotFillTheLog(t *testing.T) {
	a := OpenAudit(filepath.Join(t.TempDir(), "audit.log"))
	defer a.Close()
	if err := a.add(Act{About: "b", Order: strings.Repeat("x", maxOrder)}); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(a.path); err != nil || i.Size() > auditLine {
		t.Errorf("a line of %d bytes", i.Size())
	}
}

// A crash or a full disk cuts a line: the next one is whole all the same.
func TestACutLineSpoilsNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(`{"about":"backend a/b","by":"ui`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := OpenAudit(path)
	defer a.Close()
	if err := a.add(Act{About: "backend a/b"}); err != nil {
		t.Fatal(err)
	}
	if found, err := a.About("backend a/b", 5); err != nil || len(found) != 1 {
		t.Errorf("found %v, %v; want the whole line", found, err)
	}
}

// An audit log that cannot be written is said, and holds nothing up; when it
// can be written again it is.
func TestAnAuditLogThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	a := OpenAudit(filepath.Join(dir, "audit.log"))
	defer a.Close()
	said := &log{}
	h := Handler(newFake(), Options{Log: slog.New(slog.NewTextHandler(said, nil)), Audit: a})
	if w := ask(h, "POST /v1/config/reload", ""); w.Code != http.StatusOK {
		t.Errorf("the change: %d %s", w.Code, w.Body)
	}
	if !strings.Contains(said.String(), "the audit log lacks a line") {
		t.Errorf("the log says %s", said)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ask(h, "POST /v1/config/reload", "")
	if got := lines(t, a.path); len(got) != 1 {
		t.Errorf("%d lines, want 1", len(got))
	}
}

func TestActsAreWrittenWholeByMany(t *testing.T) {
	a := OpenAudit(filepath.Join(t.TempDir(), "audit.log"))
	defer a.Close()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				a.add(Act{About: fmt.Sprint(i, " ", j)})
			}
		})
	}
	all.Wait()
	if got := lines(t, a.path); len(got) != 400 {
		t.Errorf("%d lines, want 400", len(got))
	}
}
