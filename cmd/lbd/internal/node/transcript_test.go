package node

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the transcripts say now")

// transcripts runs each file of a directory: blocks of commands, ----, and
// what they answer, with an empty line after. A command's further
// lines are indented.
func transcripts(t *testing.T, dir string, run func(t *testing.T, script func(func(command) string))) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			run(t, func(do func(command) string) { replay(string(text), &got, do) })
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(text), got.String()); d != "" {
				t.Errorf("%s (-want +got):\n%s", file, d)
			}
		})
	}
}

// command is one command of a transcript.
type command struct {
	words []string
	body  string
}

func replay(text string, out *strings.Builder, do func(command) string) {
	for block := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n\n") {
		commands, _, hasAnswer := strings.Cut(block, "\n----")
		var answer string
		for _, c := range parseCommands(commands) {
			answer += do(c)
		}
		out.WriteString(commands + "\n")
		if hasAnswer {
			out.WriteString("----\n" + answer)
		}
		out.WriteString("\n")
	}
}

func parseCommands(text string) []command {
	var all []command
	for line := range strings.SplitSeq(text, "\n") {
		switch {
		case strings.HasPrefix(line, "#"), line == "":
		case strings.HasPrefix(line, "  ") && len(all) > 0:
			all[len(all)-1].body += strings.TrimPrefix(line, "  ") + "\n"
		default:
			all = append(all, command{words: strings.Fields(line)})
		}
	}
	return all
}
