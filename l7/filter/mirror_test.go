package filter

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/l7test"
)

func TestMirror(t *testing.T) {
	copies := make(chan string, 100)
	app := origin(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	shadow := origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		copies <- r.RequestURI + " " + string(body) + " " + r.Header.Get("X-Edge")
	})
	document := func(share string) string {
		return through(`headers: { request: { set: { x-edge: "1" } } }, mirror: { pool: shadow, share: `+share+` }`, app) + "  "
	}
	with := func(share string) string {
		return strings.Replace(document(share), "pools: {", `pools: { shadow: { backends: ["`+shadow+`"] },`, 1)
	}
	p := l7test.Start(t, All, with("100%"))
	res, err := http.Post(p.URL+"/x?y", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "hello" {
		t.Errorf("got %q", body)
	}
	if got := <-copies; got != "/x?y hello 1" {
		t.Errorf("the copy is %q", got)
	}
	p.Configure(with("0%"))
	for range 20 {
		get(t, p.URL)
	}
	if len(copies) > 0 {
		t.Error("a share of none is copied")
	}
}

func TestMirrorRefuses(t *testing.T) {
	refuses(t, mirror, []refusal{{`{}`, `pool is missing`}, {`{ pool: a, share: 101% }`, `share`}})
	_, err := lb.Parse([]byte(through("mirror: { pool: ap }", "127.0.0.1:1")), lb.Options{Filters: Check()})
	if err == nil || !strings.Contains(err.Error(), `filter mirror uses pool "ap", which does not exist`) {
		t.Errorf("got %v", err)
	}
}
