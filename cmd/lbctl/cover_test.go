package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestEveryCommandIsInATranscript wants each command run against a real lbd, and
// each flag used in some transcript.
func TestEveryCommandIsInATranscript(t *testing.T) {
	real, all := said(t, "testdata/real/*.txtar"), said(t, "testdata/*/*.txtar")
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		if cmd.HasSubCommands() || cmd.Hidden || cmd.Name() == "help" {
			return
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "lbctl ")
		run := regexp.MustCompile(`(?m)^(?:(?:status|await) \d|(?:watch|within) (?:'[^']*'|\S+)) (?:--addr \S+ )?` + regexp.QuoteMeta(path) + `\b`)
		if !run.MatchString(real) {
			t.Errorf("no transcript of testdata/real runs lbctl %s", path)
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" || f.Hidden {
				return
			}
			used := `--` + f.Name + `\b`
			if f.Shorthand != "" {
				used = `(?:` + used + `|-` + f.Shorthand + `\b)`
			}
			if !regexp.MustCompile(run.String() + `.*` + used).MatchString(all) {
				t.Errorf("no transcript runs lbctl %s with --%s", path, f.Name)
			}
		})
	}
	root := (&ctl{}).root()
	root.InitDefaultCompletionCmd("")
	walk(root)
}

func said(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatal(pattern, err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
