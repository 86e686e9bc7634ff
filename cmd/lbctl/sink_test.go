package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A full disk is no success, whatever was to be written there.
func TestWhatIsNotWrittenIsAnError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	path := filepath.Join(t.TempDir(), "lbd.sock")
	stop, err := serve(path, newFakeNode("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, line := range []string{"status", "explain http://shop.example/", "why backend app/10.0.1.1:8080", "top --count 1", "version", "config show"} {
		var errs bytes.Buffer
		args := append(strings.Fields(line), "--addr", path)
		if code := run(t.Context(), args, nil, full, &errs); code != exitError || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%s: exit code %d, want %d: %s", line, code, exitError, &errs)
		}
	}
}
