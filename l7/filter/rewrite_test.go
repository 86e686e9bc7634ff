package filter

import (
	"io"
	"net/http"
	"testing"

	"pgregory.net/rapid"

	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

func TestRewrite(t *testing.T) {
	for _, c := range []struct{ config, target, want string }{
		{`{ prefix: /api, to: / }`, "/api", "/"},
		{`{ prefix: /api, to: / }`, "/api/", "/"},
		{`{ prefix: /api, to: / }`, "/api/x?y=/api/z", "/x?y=/api/z"},
		{`{ prefix: /api, to: / }`, "/apix", "/apix"},
		{`{ prefix: /api, to: / }`, "/v1/api/x", "/v1/api/x"},
		{`{ prefix: /api, to: / }`, "/api//x", "//x"},
		{`{ prefix: /api, to: / }`, "/api?q", "/?q"},
		{`{ prefix: /api, to: /v2 }`, "/api", "/v2"},
		{`{ prefix: /api, to: /v2 }`, "/api/x%2Fy;z", "/v2/x%2Fy;z"},
		{`{ prefix: /api, to: /v2/ }`, "/api/x", "/v2/x"},
		{`{ prefix: /api/, to: /v2 }`, "/api/x", "/v2/x"},
		{`{ prefix: /api/, to: /v2 }`, "/api", "/api"},
		{`{ prefix: /, to: /base }`, "/x", "/base/x"},
		{`{ prefix: /, to: /base/ }`, "/", "/base/"},
		{`{ prefix: /, to: /base }`, "*", "*"},
		{`{ regex: "^/v([0-9]+)/(.*)$", to: "/$2/v$1" }`, "/v12/a/b?q=1", "/a/b/v12?q=1"},
		{`{ regex: "^/v([0-9]+)/", to: "/v${1}0/" }`, "/v1/a", "/v10/a"},
		{`{ regex: "^/(?P<user>[a-z]+)", to: "/of/$user" }`, "/bob/x", "/of/bob/x"},
		{`{ regex: "^/old", to: "/new" }`, "/other?x=/old", "/other?x=/old"},
		{`{ regex: "/+", to: "/" }`, "//a///b", "/a/b"},
		{`{ regex: "^/strip/(.*)$", to: "$1" }`, "/strip/a", "/a"},
		{`{ regex: "^/strip/(.*)$", to: "$1" }`, "/strip/", "/"},
		{`{ host: b.example }`, "/x", "/x"},
	} {
		f := built(t, rewrite, c.config)
		r := &l7.Request{Target: c.target}
		if err := f.Upstream(nil, r); err != nil || r.Target != c.want {
			t.Errorf("%s: %s became %s, want %s (%v)", c.config, c.target, r.Target, c.want, err)
		}
	}
}

// Whatever is asked for, the backend gets a target: rooted, of clean bytes, with
// the query as it was.
func TestRewriteMakesTargets(t *testing.T) {
	filters := []l7.Filter{
		built(t, rewrite, `{ prefix: /a, to: / }`), built(t, rewrite, `{ prefix: /a/, to: /b }`),
		built(t, rewrite, `{ regex: "a(.*)b", to: "$1" }`), built(t, rewrite, `{ regex: "^/", to: "/$0" }`),
	}
	rapid.Check(t, func(t *rapid.T) {
		query := rapid.StringMatching(`(\?[a/?%2]{0,5})?`).Draw(t, "query")
		r := &l7.Request{Target: "/" + rapid.StringMatching(`[ab/%2.;]{0,12}`).Draw(t, "path") + query}
		filters[rapid.IntRange(0, len(filters)-1).Draw(t, "filter")].Upstream(nil, r)
		if got := r.Target; got == "" || got[0] != '/' || r.Target[len(r.Path()):] != query {
			t.Fatalf("got %q, the query was %q", got, query)
		}
	})
}

func TestRewriteThroughAProxy(t *testing.T) {
	backend := origin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host+" "+r.RequestURI) })
	p := l7test.Start(t, All, "routes: [ { match: { path: /api }, filters: [ rewrite: { prefix: /api, to: /, host: b.example } ], pool: app } ]\npools: { app: { backends: [\""+backend+"\"] } }")
	body, _ := io.ReadAll(get(t, p.URL+"/api/x%20y?z").Body)
	if string(body) != "b.example /x%20y?z" {
		t.Errorf("the backend got %s", body)
	}
}

func TestRewriteRefuses(t *testing.T) {
	refuses(t, rewrite, []refusal{
		{`{}`, `wants prefix or regex with to, or host`},
		{`{ prefix: /a, regex: /b, to: /c }`, `prefix or regex, not both`},
		{`{ prefix: /a }`, `to is ""; it begins with /`},
		{`{ prefix: a, to: /b }`, `prefix is "a"; it begins with /`},
		{`{ prefix: /a, to: $1 }`, `to is "$1"; it begins with /`},
		{`{ to: /b }`, `to is for prefix or regex`},
		{`{ prefix: /a, to: "/b?c" }`, `no spaces, ? or #`},
		{`{ prefix: /a, to: "/b c" }`, `no spaces, ? or #`},
		{`{ regex: "(", to: /b }`, `regex does not compile: missing closing )`},
		{`{ regex: "(a)", to: /$2 }`, `to uses $2`},
		{`{ regex: "(a)", to: /$1st }`, `to uses $1st`},
		{`{ host: "a/b" }`, `"a/b" is not a host`},
	})
}
