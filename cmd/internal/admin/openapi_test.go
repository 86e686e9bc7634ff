package admin

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/cmd/internal/admin/admintest"
)

// bodies are requests that a node can carry out, by method and path.
var bodies = map[string]string{
	"POST /v1/explain":         `{"url":"http://shop.example/"}`,
	"POST /v1/capture":         `{"flow":"192.0.2.10:80","packets":2}`,
	"POST /v1/config/diff":     "pools: {}\n",
	"PUT /v1/config":           "pools: {}\n",
	"POST /v1/config/release":  `{"discard":true}`,
	"POST /v1/config/rollback": `{"generation":"41@edge-1"}`,
	"POST /v1/backends":        `{"action":"add","pool":"app","address":"10.0.0.1:80"}`,
	"POST /v1/backends/order":  `{"id":"app/10.0.0.1:80","drain":true}`,
	"POST /v1/nodes/order":     `{"drain":true}`,
	"POST /v1/listeners/order": `{"name":"web","drain":true}`,
	"POST /v1/workers/order":   `{"name":"1.0","drain":true}`,
	"POST /v1/nodes/leave":     `{}`,
	"POST /v1/upgrade":         `{}`,
	"POST /v1/cluster/keys":    `{"action":"use","key":"0a1b2c3d"}`,
}

// description is what the handler says of itself.
func description(t *testing.T, h http.Handler) object {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/openapi.json", nil))
	var d object
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != 200 {
		t.Fatalf("the description: %d %v", w.Code, err)
	}
	return d
}

// Every operation of the description is there and answers as it says, and
// refuses as it says.
func TestTheDescriptionIsWhatTheHandlerDoes(t *testing.T) {
	f := newFake()
	h := Handler(f, Options{Log: slog.New(slog.DiscardHandler)})
	d := description(t, h)
	operations := 0
	for path, methods := range d["paths"].(object) {
		for method, o := range methods.(object) {
			operations++
			name := strings.ToUpper(method) + " " + path
			o := o.(object)
			if o["summary"] == "" || o["operationId"] == "" {
				t.Errorf("%s says nothing of itself", name)
			}
			f.err = nil
			w := ask(h, name, bodies[name])
			checkAnswer(t, d, o, name, "200", w)
			if w.Code != http.StatusOK {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
			f.err = errors.New("disk on fire")
			w = ask(h, name, bodies[name])
			if w.Code != http.StatusOK || w.Header().Get("Content-Type") == "application/problem+json" {
				checkAnswer(t, d, o, name, "default", w)
			}
			checkBody(t, d, o, name, bodies[name])
		}
	}
	if operations < 25 {
		t.Errorf("%d operations are described", operations)
	}
}

func ask(h http.Handler, name, body string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(name, " ")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

// checkAnswer holds an answer against its description.
func checkAnswer(t *testing.T, d, operation object, name, status string, w *httptest.ResponseRecorder) {
	t.Helper()
	contents := operation["responses"].(object)[status].(object)["content"].(object)
	kind := w.Header().Get("Content-Type")
	c, ok := contents[kind].(object)
	if !ok {
		t.Errorf("%s answers %s, described are %v", name, kind, contents)
		return
	}
	if strings.HasSuffix(kind, "yaml") || kind == pcapngType {
		return
	}
	for _, e := range admintest.Conforms(d, c["schema"].(object), w.Body.Bytes()) {
		t.Errorf("%s: %s\n%s", name, e, w.Body)
	}
}

// checkBody holds the request of this test against its description: what the
// handler takes is what is described.
func checkBody(t *testing.T, d, operation object, name, body string) {
	t.Helper()
	described, ok := operation["requestBody"].(object)
	if ok != (body != "") {
		t.Errorf("%s: a body is described: %v, is needed: %v", name, ok, body != "")
		return
	}
	if !ok {
		return
	}
	if c, ok := described["content"].(object)["application/json"].(object); ok {
		for _, e := range admintest.Conforms(d, c["schema"].(object), []byte(body)) {
			t.Errorf("%s: the body %s: %s", name, body, e)
		}
	}
}

// What is not described is not there.
func TestWhatIsNotDescribedIsNotThere(t *testing.T) {
	h := Handler(newFake(), Options{Log: slog.New(slog.DiscardHandler)})
	paths := description(t, h)["paths"].(object)
	for path, methods := range paths {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if _, ok := methods.(object)[strings.ToLower(method)]; ok {
				continue
			}
			if w := ask(h, method+" "+path, ""); w.Code != 404 && w.Code != 405 {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
}

// The parameters of the description are those that are taken.
func TestParametersAreTakenAsDescribed(t *testing.T) {
	h := Handler(newFake(), Options{Log: slog.New(slog.DiscardHandler)})
	good := map[string]string{"dry_run": "true", "confirm": "60s", "file": "f.yaml", "id": "app/10.0.0.1:80", "after": "7", "generation": "42@edge-1"}
	for path, methods := range description(t, h)["paths"].(object) {
		for method, o := range methods.(object) {
			parameters, _ := o.(object)["parameters"].([]any)
			for _, p := range parameters {
				name, in := p.(object)["name"].(string), p.(object)["in"]
				if in != "query" {
					continue
				}
				at := strings.ToUpper(method) + " " + path
				if w := ask(h, at+"?"+name+"="+good[name], bodies[at]); w.Code != http.StatusOK {
					t.Errorf("%s %s with %s=%s: %d %s", method, path, name, good[name], w.Code, w.Body)
				}
			}
		}
	}
}

func TestEverySchemaIsPublished(t *testing.T) {
	type own struct {
		A int `json:"a"`
	}
	text, ok := Schema("", map[string]any{"own": []own{}})
	if !ok {
		t.Fatal("there is no schema of all")
	}
	var all object
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(OutputNames(), "own") {
		if _, ok := all["properties"].(object)[name]; !ok {
			t.Errorf("the schema of all lacks %s", name)
		}
	}
	var one object
	text, ok = Schema("own", map[string]any{"own": []own{}})
	if err := json.Unmarshal(text, &one); err != nil || !ok {
		t.Fatal(err)
	}
	if e := admintest.Conforms(one, one, []byte(`[{"a":1}]`)); e != nil {
		t.Errorf("what conforms: %v", e)
	}
	if e := admintest.Conforms(one, one, []byte(`[{"a":"x","b":2}]`)); len(e) != 2 {
		t.Errorf("what does not conform: %v", e)
	}
	if _, ok := Schema("nothing", nil); ok {
		t.Error("there is a schema of nothing")
	}
}
