package lb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse holds that any text gives a Config or errors that render, that
// reading is the same twice, and that edits are refused or undone exactly.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	more, _ := filepath.Glob("examples/*.yaml")
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(editDoc))
	f.Fuzz(func(t *testing.T, text []byte) {
		o := Options{File: "lbd.yaml", Filters: testFilters, Host: testHost}
		c, err := Parse(text, o)
		again, errAgain := Parse(append([]byte(nil), text...), o)
		if err != nil {
			checkErrors(t, err)
			if errAgain == nil || errAgain.Error() != err.Error() {
				t.Errorf("read as\n%v\nthen as\n%v", err, errAgain)
			}
		} else if changes := Diff(c, again); len(changes) > 0 {
			t.Errorf("a configuration differs from itself: %v", changes)
		}
		Objects(text)
		Settings(text)
		checkEdit(t, text)
	})
}

func checkErrors(t *testing.T, err error) {
	var all Errors
	if !errors.As(err, &all) || len(all) == 0 {
		t.Fatalf("got %T %v", err, err)
	}
	for _, e := range all {
		if e.Code == "" || e.Message == "" || !utf8.ValidString(e.Error()) {
			t.Errorf("got %+v", e)
		}
		if lines := strings.Count(e.Error(), "\n"); lines > 2 && e.Excerpt != "" && !strings.Contains(e.Message+e.Hint, "\n") {
			t.Errorf("an error of %d lines: %q", lines, e.Error())
		}
	}
}

// checkEdit adds a backend to each pool of a document that can be edited, and
// removes it again.
func checkEdit(t *testing.T, text []byte) {
	doc, err := open("", text)
	if err != nil {
		return
	}
	entries, _ := newDecoder(doc, nil).entries(doc.find("pools"), field{})
	for _, e := range entries[:min(len(entries), 3)] {
		added, err := AddBackend(text, e.key, Backend{Address: "198.51.100.7:99", Weight: 3})
		if err != nil {
			continue
		}
		if _, err := RemoveBackend(added, e.key, "198.51.100.7:99"); err != nil && !errors.Is(err, ErrByHand) {
			t.Errorf("remove what was added: %v\n%s", err, added)
		}
	}
}
