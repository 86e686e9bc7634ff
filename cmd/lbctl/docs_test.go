package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
)

var (
	fence   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")
	docLink = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
)

// Every configuration in the guides is valid, every lbctl command is one: it is
// run against a node that answers. docs/docs_test.go runs them against real ones,
// as root.
func TestDocsSayWhatWorks(t *testing.T) {
	pages, _ := filepath.Glob("../../docs/*.md")
	if len(pages) < 4 {
		t.Fatalf("found %v", pages)
	}
	commands, configs := 0, 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range docLink.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %v", page, err)
			}
		}
		for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
			switch m[1] {
			case "yaml":
				configs++
				if _, err := lb.Parse([]byte(m[2]), lb.Options{File: page}); err != nil {
					t.Errorf("%s: %v", page, err)
				}
			case "console":
				for line := range strings.Lines(m[2]) {
					line, _, _ = strings.Cut(line, " #")
					line, _, _ = strings.Cut(line, " || ")
					for part := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSpace(line), "$ "), " && ") {
						if args, ok := strings.CutPrefix(part, "lbctl "); ok {
							commands++
							documented(t, page, args)
						}
					}
				}
			}
		}
	}
	t.Logf("%d commands, %d configurations", commands, configs)
}

// documented runs a command line as the page has it; it must be understood and
// be answered.
func documented(t *testing.T, page, line string) {
	t.Helper()
	dir := t.TempDir()
	n := newFakeNode("document")
	stop, err := serve(filepath.Join(dir, "s"), n)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	t.Setenv("LBCTL_ADDR", filepath.Join(dir, "s"))
	if err := os.WriteFile(filepath.Join(dir, "new.yaml"), []byte("pools: {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	line = strings.ReplaceAll(line, "new.yaml", filepath.Join(dir, "new.yaml"))
	var args []string
	for i, quoted := range strings.Split(line, "'") {
		if i%2 == 1 {
			args = append(args, quoted)
		} else {
			args = append(args, strings.Fields(quoted)...)
		}
	}
	var out, errs bytes.Buffer
	switch code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code {
	case exitUsage, exitUnreachable:
		t.Errorf("%s: lbctl %s: exit %d\n%s", page, line, code, errs.String())
	}
}
