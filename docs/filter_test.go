package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs of the guide on filters are a module that builds and whose test
// passes, as they are written there.
func TestTheFilterOfTheGuideWorks(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds an lbd")
	}
	dir := t.TempDir()
	write := func(file, text string) {
		t.Helper()
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{"package greet\n": "greet/greet.go", "package main\n": "main.go", "package greet_test\n": "greet/greet_test.go"}
	for _, b := range blocks(t, "../examples/README.md") {
		for begin, file := range files {
			if b.language == "go" && strings.HasPrefix(b.text, begin) {
				write(file, b.text)
				delete(files, begin)
			}
		}
	}
	if len(files) > 0 {
		t.Fatalf("the guide lacks %v", files)
	}
	repo, _ := filepath.Abs("..")
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	// Its own module, with what the tree's needs.
	text := strings.Replace(string(mod), "module github.com/cirque-lb/lb\n", "module example.com/edge\n", 1)
	text += "\nrequire github.com/cirque-lb/lb v0.0.0\nreplace github.com/cirque-lb/lb => " + repo + "\n"
	write("go.mod", text)
	write("go.sum", string(sum))
	for _, args := range [][]string{{"vet", "-mod=mod", "./..."}, {"test", "-mod=mod", "./..."}} {
		c := exec.Command("go", args...)
		c.Dir, c.Env = dir, append(os.Environ(), "GOPROXY=off", "GOFLAGS=")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
