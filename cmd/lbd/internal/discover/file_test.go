package discover

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFileIsTakenWhenItNoLongerChanges(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.yaml")
	f := &file{path: path}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		name   string
		do     func()
		want   string
		failed string
	}{
		{"no file", func() {}, "", "no such file"},
		{"a first one", func() { write(`["10.0.0.1:80"]`) }, "10.0.0.1:80", ""},
		{"one that is being written", func() { write(`["10.0.0.2:80"]`) }, "10.0.0.1:80", ""},
		{"and still is", func() { write(`["10.0.0.2:80", "10.0.0.3:80"]`) }, "10.0.0.1:80", ""},
		{"and is whole", func() {}, "10.0.0.2:80 10.0.0.3:80", ""},
		{"one that does not read", func() { write("- nonsense\n") }, "10.0.0.2:80 10.0.0.3:80", ""},
		{"and stays so", func() {}, "", "app.yaml:1:3: LB1015"},
		{"as it was", func() { write(`["10.0.0.2:80", "10.0.0.3:80"]`) }, "10.0.0.2:80 10.0.0.3:80", ""},
		{"gone", func() { os.Remove(path) }, "", "no such file"},
		{"a link", func() { link(t, dir, path, "v1", `["10.0.0.4:80"]`); f.Find(t.Context()) }, "10.0.0.4:80", ""},
		{"a link that is turned", func() { link(t, dir, path, "v2", `["10.0.0.5:80"]`); f.Find(t.Context()) }, "10.0.0.5:80", ""},
		{"empty", func() { write("") }, "10.0.0.5:80", ""},
		{"and stays so", func() {}, "", "LB1009"},
		{"explicitly nothing", func() { write("[]"); f.Find(t.Context()) }, "", ""},
	}
	for _, s := range steps {
		s.do()
		answer, err := f.Find(t.Context())
		var got []string
		for _, b := range answer.Backends {
			got = append(got, b.Address)
		}
		if strings.Join(got, " ") != s.want {
			t.Errorf("%s: %v, want %s", s.name, got, s.want)
		}
		if (err != nil) != (s.failed != "") || err != nil && !strings.Contains(err.Error(), s.failed) {
			t.Errorf("%s: error %v, want %q in it", s.name, err, s.failed)
		}
	}
}

// link makes path a link to a new file, at once.
func link(t *testing.T, dir, path, name, text string) {
	t.Helper()
	target := filepath.Join(dir, name)
	if err := os.WriteFile(target, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestAFileBeyondItsBoundIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(strings.Repeat("#", maxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&file{path: path}).Find(t.Context()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}
