package lb_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/cirque-lb/lb"

// floors lists, for each package of the product, the packages of the project
// it may import, and the modules from outside when those are limited too. A
// package stands on lower floors only; siblings never meet.
var floors = map[string]struct {
	project []string
	outside []string // nil: any
}{
	".": {outside: []string{"github.com/goccy/go-yaml"}},

	"bpf":        {outside: []string{"github.com/cilium/ebpf"}},
	"bpf/gen":    {project: []string{"."}}, // runs in go generate only
	"l7/loop":    {outside: []string{"golang.org/x/sys"}},
	"l7/h1":      {outside: []string{}},
	"l7/h2":      {outside: []string{"golang.org/x/net/http2"}},
	"l7/balance": {outside: []string{}},

	"l4":      {project: []string{".", "bpf"}},
	"l7":      {project: []string{".", "l7/loop", "l7/h1", "l7/h2", "l7/balance"}},
	"health":  {project: []string{"."}},
	"cluster": {project: []string{"."}},

	"l7/certtest": {project: []string{}, outside: []string{}},

	"l7/filter": {project: []string{".", "l7"}},
	"l7/l7test": {project: []string{".", "l7"}},
	"l4/l4test": {project: []string{".", "l4"}},

	"cmd/lbd/internal/node":     {project: []string{"."}},
	"cmd/lbd/internal/worker":   {project: []string{".", "l7"}},
	"cmd/lbd/internal/discover": {project: []string{"."}},
	"cmd/internal/admin":        {project: []string{"."}},
	"cmd/internal/manual":       {project: []string{}},

	"cmd/internal/admin/admintest": {project: []string{}, outside: []string{}},

	"cmd/lbd": {project: []string{"cmd/lbd/app", "l7/filter"}},
	"cmd/lbd/app": {project: []string{".", "l4", "l7", "health", "cluster",
		"cmd/lbd/internal/node", "cmd/lbd/internal/worker", "cmd/lbd/internal/discover", "cmd/internal/admin", "cmd/internal/manual"}},
	"cmd/lbctl": {project: []string{".", "cmd/internal/admin", "cmd/internal/manual"}},
}

// roofless are trees that users read or run beside the product; they may
// import what they need.
var roofless = []string{"bench", "examples", "vagrant", "packaging", "docs"}

func TestPackagesStandOnLowerFloorsOnly(t *testing.T) {
	seen := map[string]bool{}
	for file, imports := range productImports(t) {
		pkg := filepath.ToSlash(filepath.Dir(file))
		floor, known := floors[pkg]
		if !known {
			t.Errorf("%s: package %s has no row in the table of floors", file, pkg)
			continue
		}
		seen[pkg] = true
		for _, path := range imports {
			if why := refuse(path, floor.project, floor.outside); why != "" {
				t.Errorf("%s imports %s: %s", file, path, why)
			}
		}
	}
	for pkg := range floors {
		if !seen[pkg] {
			t.Errorf("the table of floors has a row for %s, which has no Go file", pkg)
		}
	}
}

// productImports maps each non-test Go file of the product to its imports.
func productImports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(roofless, path) || d.Name() == "testdata" || (path != "." && strings.HasPrefix(d.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		found[path] = []string{}
		for _, s := range file.Imports {
			name, _ := strconv.Unquote(s.Path.Value)
			found[path] = append(found[path], name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// refuse says why an import is not allowed, or "".
func refuse(path string, project, outside []string) string {
	if path == module || strings.HasPrefix(path, module+"/") {
		pkg := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
		if pkg == "" {
			pkg = "."
		}
		if !slices.Contains(project, pkg) {
			return "not on a lower floor; allowed: " + strings.Join(project, " ")
		}
		return ""
	}
	standard := !strings.Contains(strings.SplitN(path, "/", 2)[0], ".")
	if standard || outside == nil {
		return ""
	}
	for _, m := range outside {
		if path == m || strings.HasPrefix(path, m+"/") {
			return ""
		}
	}
	return "this package may import only the standard library and " + strings.Join(outside, ", ")
}

// The data path parses and writes HTTP itself: net/http would bring a goroutine
// per connection and its own idea of every time-out.
func TestDataPathDoesNotImportNetHTTP(t *testing.T) {
	for file, imports := range productImports(t) {
		if strings.HasPrefix(file, "l7/") && slices.Contains(imports, "net/http") {
			t.Errorf("%s imports net/http", file)
		}
	}
}

func TestRefuseNamesTheRule(t *testing.T) {
	for _, c := range []struct {
		path             string
		project, outside []string
		refused          bool
	}{
		{"fmt", nil, []string{}, false},
		{module, []string{"."}, nil, false},
		{module, nil, nil, true},
		{module + "/l4", []string{".", "l4"}, nil, false},
		{module + "/l4", []string{".", "l7"}, nil, true},
		{"github.com/cilium/ebpf/link", nil, []string{"github.com/cilium/ebpf"}, false},
		{"github.com/cilium/ebpf-else", nil, []string{"github.com/cilium/ebpf"}, true},
		{"github.com/any/thing", nil, nil, false},
	} {
		if got := refuse(c.path, c.project, c.outside) != ""; got != c.refused {
			t.Errorf("import of %s by a package allowed %v and %v: refused %v, want %v", c.path, c.project, c.outside, got, c.refused)
		}
	}
}
