package l7test_test

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

// keeper is a filter that tells in each response what it kept of the request
// before.
func keeper(keep func(l7.Header) l7.Header) l7.Builder {
	return func(lb.Node) (l7.Filter, error) {
		var last l7.Header
		return l7.Filter{
			Request: func(s *l7.Session) (*l7.Response, error) {
				said := last.Get("x-number")
				last = keep(s.Request.Header)
				return &l7.Response{Status: 200, Body: []byte(said)}, nil
			},
		}, nil
	}
}

// The memory of a request is the next one's: a filter that keeps a header without
// a copy must not come through a test.
func TestWhatIsKeptWithoutACopyIsSpoiled(t *testing.T) {
	for name, c := range map[string]struct {
		keep func(l7.Header) l7.Header
		good bool
	}{
		"a clone":         {l7.Header.Clone, true},
		"the slice":       {func(h l7.Header) l7.Header { return h }, false},
		"only its fields": {func(h l7.Header) l7.Header { return slices.Clone(h) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := l7test.Start(t, map[string]l7.Builder{"keeper": keeper(c.keep)}, `routes: [ { filters: [ keeper: {} ], respond: { body: x } } ]`)
			got := ""
			for _, n := range []string{"1", "2"} {
				req, _ := http.NewRequest("GET", p.URL, nil)
				req.Header.Set("X-Number", n)
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				got = string(b)
			}
			if good := got == "1"; good != c.good {
				t.Errorf("the second response says %q", got)
			}
		})
	}
}
