package main

import (
	"net/http"
	"testing"

	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

func TestQuota(t *testing.T) {
	p := l7test.Start(t, map[string]l7.Builder{"quota": quota}, "routes: [ { filters: [ quota: { per_minute: 2 } ], respond: { body: in } } ]")
	ask := func(key string) int {
		req, _ := http.NewRequest("GET", p.URL, nil)
		req.Header.Set("X-API-Key", key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	refused := 0
	for range 6 { // the minute may turn once meanwhile
		if ask("a") == 429 {
			refused++
		}
	}
	if refused < 2 {
		t.Errorf("of 6 requests %d were refused", refused)
	}
	if got := ask("b"); got != 200 {
		t.Errorf("another key: got %d", got)
	}
	if got := ask(""); got != 429 {
		t.Errorf("without a key: got %d", got)
	}
}
