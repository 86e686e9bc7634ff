package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

func TestReplaceInPages(t *testing.T) {
	const page = `<a href="http://a.example/">http</a> <a href="http://b.example/">http:</a>`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		for _, piece := range strings.SplitAfter(page, "ht") { // a needle across two pieces
			io.WriteString(w, piece)
			w.(http.Flusher).Flush()
		}
	}))
	t.Cleanup(s.Close)
	p := l7test.Start(t, map[string]l7.Builder{"replace": replace}, fmt.Sprintf(`
routes: [ { filters: [ replace: { from: "http://", to: "https://" } ], pool: app } ]
pools: { app: { backends: [%q] } }
`, strings.TrimPrefix(s.URL, "http://")))
	for kind, want := range map[string]string{"text/html": strings.ReplaceAll(page, "http://", "https://"), "text/plain": page} {
		res, err := http.Get(p.URL + "/?type=" + kind)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != want || err != nil {
			t.Errorf("%s: got %s (%v)", kind, body, err)
		}
	}
}

// Whatever pieces a page comes in, it is replaced as if it came at once.
func TestReplaceAcrossPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.StringMatching(`[ab]{1,4}`).Draw(t, "from")
		n, err := lb.ParseNode("", fmt.Appendf(nil, "{ from: %q, to: %q }", from, "-"+from))
		if err != nil {
			t.Fatal(err)
		}
		f, err := replace(n)
		if err != nil {
			t.Fatal(err)
		}
		pieces := rapid.SliceOfN(rapid.StringMatching(`[ab]{0,5}`), 1, 6).Draw(t, "pieces")
		var got strings.Builder
		s := new(l7.Session)
		for i, p := range pieces {
			out, err := f.ResponseBody(s, []byte(p), i == len(pieces)-1)
			if err != nil {
				t.Fatal(err)
			}
			got.Write(out)
		}
		if want := strings.ReplaceAll(strings.Join(pieces, ""), from, "-"+from); got.String() != want {
			t.Fatalf("got %s, want %s", got.String(), want)
		}
	})
}
