package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

// backend is one that says its name.
func backend(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestVisitorsStayWithTheirVariant(t *testing.T) {
	document := fmt.Sprintf(`
routes: [ { filters: [ experiment: { pool: b, share: 30%% } ], pool: a } ]
pools: { a: { backends: [%q] }, b: { backends: [%q] } }
`, backend(t, "a"), backend(t, "b"))
	p := l7test.Start(t, map[string]l7.Builder{"experiment": experiment}, document)
	seen := map[string]int{}
	for range 200 {
		jar, _ := cookiejar.New(nil)
		visitor := &http.Client{Jar: jar}
		first := ""
		for range 3 {
			res, err := visitor.Get(p.URL)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			if first == "" {
				first = string(body)
			} else if string(body) != first {
				t.Fatalf("a visitor saw %s, then %s", first, body)
			}
		}
		seen[first]++
	}
	if seen["a"]+seen["b"] != 200 || seen["b"] < 25 || seen["b"] > 100 {
		t.Errorf("got %v; 60 or so of 200 are of b", seen)
	}
}
