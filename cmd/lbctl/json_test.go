package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/internal/admin/admintest"
)

// What -o json prints is as the published schema says, for every command that
// has a result.
func TestJSONIsAsItsSchemaSays(t *testing.T) {
	n := newFakeNode("document")
	path := filepath.Join(t.TempDir(), "lbd.sock")
	stop, err := serve(path, n)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	document := filepath.Join("testdata", "document.yaml")
	covered := map[string]bool{}
	for _, c := range []struct {
		schema string
		args   []string
	}{
		{"status", []string{"status"}},
		{"listeners", []string{"listener", "list"}},
		{"routes", []string{"route", "list"}},
		{"pools", []string{"pool", "list"}},
		{"services", []string{"service", "list"}},
		{"nodes", []string{"node", "list"}},
		{"backends", []string{"backend", "list"}},
		{"certificates", []string{"cert", "list"}},
		{"refusals", []string{"listener", "refused"}},
		{"story", []string{"why", "backend", "app/10.0.1.1:8080"}},
		{"traffic", []string{"top", "--count", "1", "--every", "50ms"}},
		{"explanation", []string{"explain", "http://shop.example/"}},
		{"explanation", []string{"explain", "tcp", "198.51.100.7:40000", "192.0.2.10:80"}},
		{"events", []string{"events"}},
		{"history", []string{"config", "history"}},
		{"document", []string{"config", "show"}},
		{"applied", []string{"config", "apply", "-f", document, "--confirm", "60s"}},
		{"applied", []string{"config", "diff", "-f", document}},
		{"applied", []string{"config", "reload"}},
		{"applied", []string{"backend", "remove", "app/10.0.1.1:8080"}},
		{"backend-order", []string{"backend", "drain", "app/10.0.1.1:8080"}},
		{"backend-order", []string{"backend", "set", "app/10.0.1.1:8080", "--override-weight", "3"}},
		{"node-order", []string{"node", "drain"}},
		{"node-order", []string{"node", "undrain"}},
		{"listener-order", []string{"listener", "drain", "web"}},
		{"leave-order", []string{"node", "leave"}},
		{"upgrade-order", []string{"upgrade"}},
		{"findings", []string{"doctor", "-c", document}},
		{"version", []string{"version"}},
		{"key", []string{"cluster", "key", "new"}},
	} {
		covered[c.schema] = true
		name := strings.Join(c.args, " ")
		var out, errs bytes.Buffer
		if code := run(t.Context(), append(c.args, "--addr", path, "-o", "json"), strings.NewReader(""), &out, &errs); code != exitOK && c.schema != "findings" {
			t.Errorf("%s: exit %d: %s", name, code, &errs)
			continue
		}
		text, ok := admin.Schema(c.schema, ownOutputs)
		if !ok {
			t.Errorf("there is no schema %s", c.schema)
			continue
		}
		var schema map[string]any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		for _, e := range admintest.Conforms(schema, schema, out.Bytes()) {
			t.Errorf("%s: %s", name, e)
		}
	}
	covered["event"] = true // a line of events --watch: an element of events
	for _, name := range slices.Concat(admin.OutputNames(), keysOf(ownOutputs)) {
		if !covered[name] {
			t.Errorf("no command of this test prints %s", name)
		}
	}
}

func keysOf(m map[string]any) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	return all
}
