package filter

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cirque-lb/lb"
)

// A configuration that uses the stock filters is checked down to their own
// lines.
func TestCheckFindsErrorsInTheDocument(t *testing.T) {
	document := `listeners: { web: { bind: "127.0.0.1:1" } }
routes:
  - filters:
      - rate_limit: { per_second: 5, by: cookie }
      - headers: { request: { set: { "a b": "1" } } }
      - headers
    pool: app
pools: { app: { backends: ["127.0.0.1:2"] } }
`
	_, err := lb.Parse([]byte(document), lb.Options{Filters: Check()})
	var all lb.Errors
	if !errors.As(err, &all) {
		t.Fatal(err)
	}
	var got []int
	for _, e := range all {
		got = append(got, e.Line)
	}
	if diff := cmp.Diff([]int{4, 5}, got); diff != "" {
		t.Errorf("lines of errors: want -, got +\n%s\n%v", diff, err)
	}
}

func TestCheckKnowsEveryFilter(t *testing.T) {
	if len(Check()) != len(All) {
		t.Errorf("%d checks of %d filters", len(Check()), len(All))
	}
}

// The README of the package lists every filter there is.
func TestEveryFilterHasALineInTheDocs(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range All {
		if !strings.Contains(string(text), "\n| `"+name+"` |") {
			t.Errorf("README.md has no line about %s", name)
		}
	}
}
