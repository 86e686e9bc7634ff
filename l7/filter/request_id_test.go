package filter

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/l7/l7test"
)

func TestRequestID(t *testing.T) {
	atBackend := make(chan string, 1)
	backend := origin(t, func(w http.ResponseWriter, r *http.Request) {
		atBackend <- strings.Join(r.Header["X-Request-Id"], "|")
		w.Header().Set("X-Request-Id", "the backend's own")
	})
	fresh := regexp.MustCompile(`^[0-9a-f]{32}$`)
	seen := map[string]bool{}
	for _, c := range []struct {
		name, config, trusted, sent string
		kept                        bool
	}{
		{"none", "request_id", "127.0.0.0/8", "", false},
		{"of a trusted proxy", "request_id", "127.0.0.0/8", "abc-1", true},
		{"of anybody", "request_id", "192.0.2.0/24", "abc-1", false},
		{"of anybody, always", "request_id: { keep: always }", "192.0.2.0/24", "abc-1", true},
		{"never", "request_id: { keep: never }", "127.0.0.0/8", "abc-1", false},
		{"with a space", "request_id", "127.0.0.0/8", "abc 1", false},
		{"with a quote", "request_id", "127.0.0.0/8", `abc"1`, false},
		{"too long", "request_id", "127.0.0.0/8", strings.Repeat("x", 129), false},
	} {
		p := l7test.Start(t, All, "trusted: ["+c.trusted+"]\n"+through(c.config, backend))
		for range 2 { // on one connection
			res := get(t, p.URL, "X-Request-Id", c.sent)
			got, want := <-atBackend, c.sent
			if back := strings.Join(res.Header["X-Request-Id"], "|"); back != got {
				t.Errorf("%s: the backend got %q, the client %q", c.name, got, back)
			}
			if c.kept && got != want || !c.kept && (!fresh.MatchString(got) || seen[got]) {
				t.Errorf("%s: %q became %q", c.name, c.sent, got)
			}
			seen[got] = true
		}
	}
}

func TestRequestIDByAnotherName(t *testing.T) {
	backend := origin(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Seen", r.Header.Get("Traceparent-Id")) })
	res := get(t, l7test.Start(t, All, through("request_id: { header: traceparent-id }", backend)).URL)
	if id := res.Header.Get("Traceparent-Id"); len(id) != 32 || res.Header.Get("X-Seen") != id {
		t.Errorf("got %v", res.Header)
	}
}

func TestRequestIDRefuses(t *testing.T) {
	refuses(t, requestID, []refusal{
		{`{ header: "a b" }`, `"a b" is not a field name`},
		{`{ header: content-length }`, `belongs to the connection`},
		{`{ keep: sometimes }`, `keep`},
	})
}
