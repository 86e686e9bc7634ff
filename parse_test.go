package lb

import (
	"os"
	"strings"
	"testing"
)

func TestQuickstartParses(t *testing.T) {
	text, err := os.ReadFile("examples/quickstart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(text, Options{File: "quickstart.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	app := c.Pool("app")
	if app == nil || len(app.Backends) != 3 || app.Backends[2].Weight != 2 || app.Backends[0].Weight != 1 {
		t.Errorf("pool app: got %+v", app)
	}
	if app.Check.Timeout.String() != "1s" || app.Check.HTTP != "/healthz" {
		t.Errorf("check: got %+v", app.Check)
	}
	if c.Routes[0].Timeout.Request.String() != "1m0s" || c.Listener("web").Bind.String() != "[::]:8080" {
		t.Errorf("got %+v", c.Routes[0])
	}
}

func TestLargeDocumentsEndSoon(t *testing.T) {
	for _, c := range []struct{ name, text, code string }{
		{"a million keys", strings.Repeat("a: b\n", 1<<20), CodeTooLarge},
		{"a long flow", "x: [" + strings.Repeat("a,", 1<<20) + "]", CodeTooLarge},
		{"as many keys as fit", strings.Repeat("a: b\n", maxKeys), CodeDuplicate},
		{"as many mappings as fit", "x:\n" + strings.Repeat("  - a: b\n    c: d\n", maxTokens/8), CodeUnknownKey},
		{"brackets", strings.Repeat("[", 1<<20), CodeTooDeep},
		{"braces", strings.Repeat("{a: ", 1<<18), CodeTooDeep},
		{"dashes", strings.Repeat("- ", 1<<18), CodeTooDeep},
		{"indents", indents(2000), CodeTooDeep},
		{"one long line", "x: " + strings.Repeat("a", 8<<20), CodeUnknownKey},
	} {
		if _, err := Parse([]byte(c.text), Options{}); !hasCode(err, c.code) {
			t.Errorf("%s: got %.200v, want %s", c.name, err, c.code)
		}
	}
}

func indents(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}
