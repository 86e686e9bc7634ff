package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/l7"
	"github.com/cirque-lb/lb/l7/l7test"
)

func serve(t *testing.T, h http.HandlerFunc) (url string) {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestAuthorize(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	left := make(chan bool, 1)
	service := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "good":
			w.Header().Set("X-User", "alice")
		case "slow":
			asked <- true
			<-answer
		case "leaves":
			asked <- true
			<-r.Context().Done()
			left <- true
		default:
			w.WriteHeader(401)
		}
	})
	app := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-User")) })
	document := func(service string) string {
		return fmt.Sprintf("routes: [ { filters: [ authorize: { url: %q } ], pool: app } ]\npools: { app: { backends: [%q] } }", service, strings.TrimPrefix(app, "http://"))
	}
	p := l7test.Start(t, map[string]l7.Builder{"authorize": authorize}, document(service))
	get := func(ctx context.Context, authorization string) (int, string) {
		req, _ := http.NewRequestWithContext(ctx, "GET", p.URL, nil)
		req.Header.Set("Authorization", authorization)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, ""
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(body)
	}
	want := func(authorization string, status int, body string) {
		t.Helper()
		if got, text := get(t.Context(), authorization); got != status || status == 200 && text != body {
			t.Errorf("%s: got %d %q, want %d %q", authorization, got, text, status, body)
		}
	}
	want("good", 200, "alice")
	want("bad", 403, "")

	// While the service thinks about one, the same loop serves others.
	slow := make(chan int)
	go func() { status, _ := get(t.Context(), "slow"); slow <- status }()
	<-asked
	want("good", 200, "alice")
	answer <- true
	if status := <-slow; status != 200 {
		t.Errorf("the slow one: got %d", status)
	}

	// A client that leaves ends the question.
	ctx, leave := context.WithCancel(t.Context())
	go get(ctx, "leaves")
	<-asked
	leave()
	<-left

	p.Configure(document("http://127.0.0.1:1/"))
	want("good", 503, "")
}
