package l4

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// edgeCases is how many there are to steering: ARCHITECTURE.md lists them.
const edgeCases = 26

var (
	caseRow   = regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`)
	namedTest = regexp.MustCompile(`([A-Za-z0-9]+)(?: \(([a-z/]+)\))?`)
)

func TestEveryEdgeCaseHasATest(t *testing.T) {
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	next := 1
	for _, row := range caseRow.FindAllStringSubmatch(string(text), -1) {
		columns := strings.Split(row[2], " | ")
		if number, _ := strconv.Atoi(row[1]); number != next || len(columns) != 3 {
			continue // of another table
		}
		for _, test := range strings.Split(columns[2], ", ") {
			m := namedTest.FindStringSubmatch(test)
			dir := "../l4"
			if m[2] != "" {
				dir = "../" + m[2]
			}
			if !testsOf(t, dir)["Test"+m[1]] {
				t.Errorf("case %d, %s: %s has no Test%s", next, columns[0], dir, m[1])
			}
		}
		next++
	}
	if next != edgeCases+1 {
		t.Errorf("ARCHITECTURE.md lists the cases up to %d, want %d", next-1, edgeCases)
	}
}

var testsByDir = map[string]map[string]bool{}

// testsOf are the names of a directory's tests.
func testsOf(t *testing.T, dir string) map[string]bool {
	if testsByDir[dir] != nil {
		return testsByDir[dir]
	}
	names := map[string]bool{}
	files, _ := filepath.Glob(filepath.Join(dir, "*_test.go"))
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	testsByDir[dir] = names
	return names
}
