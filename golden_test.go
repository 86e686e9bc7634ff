package lb

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// testHost keeps defaults the same everywhere.
var testHost = &Host{Name: "edge-1", UID: 0, Getenv: func(string) string { return "" }}

// testFilters stand for what a binary offers.
var testFilters = map[string]func(Node) error{
	"headers": func(Node) error { return nil },
	"rate_limit": func(n Node) error {
		var c struct {
			PerSecond int `yaml:"per_second" need:"true" range:"1..1000"`
			Burst     int `yaml:"burst"`
		}
		return n.Decode(&c)
	},
	"picky": func(n Node) error { return n.Key("answer").Errorf("the answer is 42") },
	"mirror": func(n Node) error {
		var c struct {
			Pool PoolRef `yaml:"pool"`
			List File    `yaml:"list"`
			Rate float64 `yaml:"rate"`
		}
		if err := n.Decode(&c); err != nil || !c.List.Read {
			return err
		}
		return errors.New("the list holds nothing that it could mirror")
	},
	"sulky": func(Node) error { return errors.New("not today") },
}

// readBad reads a bad file; its first line may ask for padding or for a line that
// is repeated, and a file .objects beside it holds the objects.
func readBad(t *testing.T, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var size int
	if _, err := fmt.Sscanf(string(text), "# test: pad to %d bytes", &size); err == nil {
		text = append(text, make([]byte, size-len(text))...)
	}
	if first, rest, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(first, "# test: repeat ") {
		var times int
		fmt.Sscanf(first, "# test: repeat %d times", &times)
		head, line, _ := strings.Cut(rest, "\n")
		text = []byte(head + "\n" + strings.Repeat(line, times))
	}
	o := Options{File: "lbd.yaml", Filters: testFilters, Host: testHost}
	if objects, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".objects"); err == nil {
		o.Objects = "objects.yaml"
		_, err = ParseWith(text, objects, o)
		return err
	}
	c, err := Parse(text, o)
	if err == nil {
		_, err = c.ReadFiles(FileOptions{Filters: testFilters, Read: func(name string) ([]byte, error) { return os.ReadFile("testdata/bad/files/" + name) }})
	}
	return err
}

func TestBadFilesGiveTheirErrors(t *testing.T) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	covered := map[string]bool{}
	for _, file := range files {
		code, _, _ := strings.Cut(filepath.Base(file), "-")
		covered[code] = true
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			err := readBad(t, file)
			if err == nil {
				t.Fatal("the file was accepted")
			}
			if !hasCode(err, code) {
				t.Errorf("no error has code %s; got\n%v", code, err)
			}
			compareGolden(t, strings.TrimSuffix(file, ".yaml")+".golden", err.Error()+"\n")
		})
	}
	for _, code := range allCodes(t) {
		if !covered[code] {
			t.Errorf("code %s has no file in testdata/bad", code)
		}
	}
}

func hasCode(err error, code string) bool {
	var all Errors
	errors.As(err, &all)
	for _, e := range all {
		if e.Code == code {
			return true
		}
	}
	return false
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", file, diff)
	}
}

// allCodes reads the constants of codes.go.
func allCodes(t *testing.T) []string {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			code, _ := strconv.Unquote(lit.Value)
			codes = append(codes, code)
		}
		return true
	})
	if len(codes) < 40 {
		t.Fatalf("codes.go: found %d codes", len(codes))
	}
	return codes
}
