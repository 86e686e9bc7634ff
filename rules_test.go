package lb

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rule is a place in the source that refuses a document.
type rule struct {
	at      string // file:line
	code    string
	message *regexp.Regexp
}

// TestEveryRuleHasABadFile wants each place that refuses something to be met by
// a file of testdata/bad, or by a test that is named here.
func TestEveryRuleHasABadFile(t *testing.T) {
	var golden strings.Builder
	files, _ := filepath.Glob("testdata/bad/*.golden")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		golden.Write(text)
	}
	rules := allRules(t)
	if len(rules) < 100 {
		t.Fatalf("found %d rules", len(rules))
	}
	for _, r := range rules {
		if !r.message.MatchString(golden.String()) && !slices.ContainsFunc(elsewhere, func(s string) bool {
			return strings.Contains(r.message.String(), verbs.ReplaceAllString(regexp.QuoteMeta(s), ".*"))
		}) {
			t.Errorf("%s: no file of testdata/bad is refused by %s", r.at, r.message)
		}
	}
	t.Logf("%d rules", len(rules))
}

// elsewhere are rules that no document of a daemon meets: what says so is
// their test.
var elsewhere = []string{
	"file %q was not read",                          // a fault of ours: the supervisor sends what Config.Files lists
	"the document has more than %d words and marks", // TestLargeDocumentsEndSoon: half a million lines
	"the file lists nothing",                        // of a pool that discovers from a file (discover/file_test.go)
}

// allRules reads the source: a rule is a code with the message that follows it.
func allRules(t *testing.T) []rule {
	t.Helper()
	codes := map[string]string{}
	var all []rule
	files, _ := filepath.Glob("*.go")
	set := token.NewFileSet()
	parsed := map[string]*ast.File{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed[name] = f
	}
	ast.Inspect(parsed["codes.go"], func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if l, ok := v.Values[0].(*ast.BasicLit); ok {
				codes[v.Names[0].Name], _ = strconv.Unquote(l.Value)
			}
		}
		return true
	})
	delete(parsed, "codes.go")
	for _, f := range parsed {
		ast.Inspect(f, func(n ast.Node) bool {
			for i, e := range siblings(n) {
				id, ok := e.(*ast.Ident)
				if !ok || codes[id.Name] == "" {
					continue
				}
				rest := siblings(n)[i+1:]
				if c, ok := n.(*ast.CallExpr); ok && len(rest) > 1 {
					if s, ok := c.Fun.(*ast.SelectorExpr); ok && (s.Sel.Name == "errorf" || s.Sel.Name == "report" || s.Sel.Name == "errorNode" && isWord(rest[1])) {
						if s.Sel.Name != "errorNode" || len(c.Args) > 4 {
							rest = rest[1:] // the hint comes first
						}
					}
				}
				for _, e := range rest[:min(1, len(rest))] {
					if m := pattern(e); m != "" {
						all = append(all, rule{fmt.Sprint(set.Position(e.Pos())), codes[id.Name], regexp.MustCompile(codes[id.Name] + " .*" + m)})
					}
				}
			}
			return true
		})
	}
	return all
}

// siblings are the values that stand beside each other in a call, a literal, an
// assignment or a return.
func siblings(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.CallExpr:
		return n.Args
	case *ast.ReturnStmt:
		return n.Results
	case *ast.AssignStmt:
		return n.Rhs
	case *ast.CompositeLit:
		var all []ast.Expr
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name != "Code" && key.Name != "Message" {
					continue
				}
				e = kv.Value
			}
			all = append(all, e)
		}
		return all
	}
	return nil
}

func isWord(e ast.Expr) bool { l, ok := e.(*ast.BasicLit); return ok && l.Kind == token.STRING }

var verbs = regexp.MustCompile(`%+[a-z]`)

// pattern is what a message matches: a literal, a format, or one with more
// behind it.
func pattern(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if err != nil || e.Kind != token.STRING {
			return ""
		}
		return verbs.ReplaceAllString(regexp.QuoteMeta(text), ".*")
	case *ast.BinaryExpr:
		return pattern(e.X) + ".*" + pattern(e.Y)
	case *ast.CallExpr:
		if s, ok := e.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Sprintf" {
			return pattern(e.Args[0])
		}
	}
	return ""
}
