package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/cmd/internal/admin/admintest"
)

// golden wants what a command printed in testdata/json; UPDATE=1 writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", "json", strings.NewReplacer(" ", "_", "/", "-", ":", "-").Replace(name)+".json")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is another one than %s: %v\n%s", name, file, err, got)
	}
}

// What -o json prints is as the published schema says, for every command that
// has a result, and as it was: a contract.
func TestJSONIsAsItsSchemaSays(t *testing.T) {
	now = func() time.Time { return long.Add(3 * time.Hour) }
	t.Cleanup(func() { now = time.Now })
	n := newFakeNode("document")
	path := filepath.Join(t.TempDir(), "lbd.sock")
	stop, err := serve(path, n)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	document := filepath.Join("testdata", "document.yaml")
	covered := map[string]bool{}
	var ran []string
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
		{"service", []string{"service", "show", "dns"}},
		{"workers", []string{"worker", "list"}},
		{"crashes", []string{"worker", "crashes"}},
		{"crash", []string{"worker", "crashes", "4710"}},
		{"key-rings", []string{"cluster", "key", "list"}},
		{"key-order", []string{"cluster", "key", "add", "-f", document}},
		{"key-order", []string{"cluster", "key", "use", "4e5f6071", "--force"}},
		{"key-order", []string{"cluster", "key", "remove", "0a1b2c3d"}},
		{"applied", []string{"config", "confirm"}},
		{"applied", []string{"config", "adopt"}},
		{"applied", []string{"config", "rollback", "41@edge-1"}},
		{"applied", []string{"backend", "add", "app/10.0.1.3:8080"}},
		{"applied", []string{"backend", "set", "app/10.0.1.1:8080", "--weight", "3"}},
		{"applied", []string{"config", "release", "--discard"}},
		{"backend-order", []string{"backend", "undrain", "app/10.0.1.1:8080"}},
		{"backend-order", []string{"backend", "disable", "app/10.0.1.1:8080"}},
		{"listener-order", []string{"listener", "undrain", "web"}},
		{"worker-order", []string{"worker", "drain", "1.0"}},
		{"worker-order", []string{"worker", "undrain", "1.0"}},
	} {
		covered[c.schema] = true
		name := strings.Join(c.args, " ")
		ran = append(ran, name)
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
		if !slices.Contains([]string{"findings", "version", "key"}, c.schema) { // of this host, of this build, another one each time
			golden(t, name, out.Bytes())
		}
	}
	covered["event"] = true // a line of events --watch: an element of events
	for _, name := range results((&ctl{}).root()) {
		if !slices.ContainsFunc(ran, func(args string) bool { return strings.HasPrefix(args+" ", name+" ") }) {
			t.Errorf("what lbctl %s -o json prints has no schema here", name)
		}
	}
	for _, name := range slices.Concat(admin.OutputNames(), keysOf(ownOutputs)) {
		if !covered[name] {
			t.Errorf("no command of this test prints %s", name)
		}
	}
}

// results are the commands that print a result of their own.
func results(cmd *cobra.Command) (names []string) {
	for _, sub := range cmd.Commands() {
		names = append(names, results(sub)...)
	}
	if name := strings.TrimPrefix(cmd.CommandPath(), "lbctl "); !cmd.HasSubCommands() && name != "schema" && name != "capture" { // packets
		names = append(names, name)
	}
	return names
}

func keysOf(m map[string]any) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	return all
}
