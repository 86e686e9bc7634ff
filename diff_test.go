package lb

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffSaysWhatChanges(t *testing.T) {
	base := `
listeners: { web: { bind: ":80" }, old: { bind: ":81" } }
routes:
  - { match: { path: /a }, pool: app }
  - { match: { path: /b, header: { x: "1", z: "1" } }, pool: app, filters: [headers: { request: { set: { a: b } } }] }
  - { pool: app }
pools:
  app: { backends: ["10.0.0.1:80", "10.0.0.2:80"], check: { http: / } }
  gone: { backends: ["10.0.0.9:80"] }
`
	for _, c := range []struct {
		name     string
		from, to string // replaced in base
		want     string
	}{
		{"nothing", "", "", ""},
		{"a default written out", "check: { http: / }", "check: { http: /, rise: 2 }", ""},
		{"a check's interval", "http: / }", "http: /, interval: 90s }", "changed pools.app.check.interval: 2s -> 1m30s"},
		{"no check any more", ", check: { http: / }", "", "removed pools.app.check"},
		{"weight", `"10.0.0.2:80"]`, `{ address: "10.0.0.2:80", weight: 5 }]`, "changed pools.app.backends.10.0.0.2:80.weight: 1 -> 5 (app/10.0.0.2:80)"},
		{"a backend for another", `"10.0.0.2:80"]`, `"10.0.0.3:80"]`, "added pools.app.backends.10.0.0.3:80 (app/10.0.0.3:80)\nremoved pools.app.backends.10.0.0.2:80 (app/10.0.0.2:80)"},
		{"a pool that goes takes its backends", `  gone: { backends: ["10.0.0.9:80"] }` + "\n", "", "removed pools.gone\nremoved pools.gone.backends.10.0.0.9:80 (gone/10.0.0.9:80)"},
		{"a listener", `, old: { bind: ":81" }`, `, new: { bind: ":82" }`, "added listeners.new\nremoved listeners.old"},
		{"a bind", `":81"`, `"127.0.0.1:81"`, "changed listeners.old.bind: [::]:81 -> 127.0.0.1:81"},
		{"a route in the middle", "  - { match: { path: /b", "  - { match: { path: /x }, pool: gone }\n  - { match: { path: /b", "added routes.2"},
		{"a route's filter", "{ a: b }", "{ a: c d }", `changed routes.2.filters: [headers: {request: {set: {a: b}}}] -> [headers: {request: {set: {a: "c d"}}}]`},
		{"a matched header", `x: "1", z: "1"`, `x: "2", y: "3"`, "changed routes.2.match.header.x: 1 -> 2\nadded routes.2.match.header.y: 3\nremoved routes.2.match.header.z: 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, err := Parse([]byte(base), Options{Host: testHost})
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(base, c.from, c.to, 1)
			if changed == base && c.from != "" {
				t.Fatal("the case changes nothing")
			}
			new, err := Parse([]byte(changed), Options{Host: testHost})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, change := range Diff(old, new) {
				line := change.String()
				if change.Backend != nil {
					line += " (" + change.Backend.String() + ")"
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
