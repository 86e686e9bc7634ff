package app_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/manual"
)

// property is as much of JSON Schema as the reference shows.
type property struct {
	Ref         string              `json:"$ref"`
	Type        any                 `json:"type"`
	Default     any                 `json:"default"`
	Enum        []any               `json:"enum"`
	Minimum     *float64            `json:"minimum"`
	Maximum     *float64            `json:"maximum"`
	Description string              `json:"description"`
	Required    []string            `json:"required"`
	Properties  map[string]property `json:"properties"`
	Items       *property           `json:"items"`
	More        json.RawMessage     `json:"additionalProperties"`
	AnyOf       []property          `json:"anyOf"`
	Defs        map[string]property `json:"$defs"`
}

// row is one key of the document.
type row struct{ path, kind, preset, note string }

// reference lists every key of the document with what the schema says of it.
type reference struct {
	defs map[string]property
	rows []row
}

func (r *reference) walk(path string, p property, depth int) {
	if depth > 12 {
		return
	}
	for _, key := range slices.Sorted(keysOf(p.Properties)) {
		child, note := p.Properties[key], ""
		if slices.Contains(p.Required, key) {
			note = "required"
		}
		at := strings.TrimPrefix(path+"."+key, ".")
		r.rows = append(r.rows, row{at, r.kind(child), presetText(child.Default), strings.TrimSpace(note + " " + rangeOf(child))})
		r.below(at, child, depth)
	}
}

// below goes into what a key holds.
func (r *reference) below(at string, p property, depth int) {
	if p.Ref != "" {
		r.walk(at, r.defs[strings.TrimPrefix(p.Ref, "#/$defs/")], depth+1)
		r.below(at, r.defs[strings.TrimPrefix(p.Ref, "#/$defs/")], depth+1)
		return
	}
	for _, choice := range p.AnyOf {
		if choice.Ref != "" || choice.Properties != nil {
			r.walk(at, choice, depth+1)
			r.below(at, choice, depth+1)
		}
	}
	if p.Items != nil {
		r.element(at+"[]", *p.Items, depth)
	}
	var more property
	if json.Unmarshal(p.More, &more) == nil {
		r.element(at+".NAME", more, depth)
	}
}

func (r *reference) element(at string, p property, depth int) {
	r.walk(at, p, depth+1)
	if p.Ref != "" || p.AnyOf != nil || p.Items != nil {
		r.below(at, p, depth)
	}
}

func (r *reference) kind(p property) string {
	switch {
	case p.Ref != "":
		return r.kind(r.defs[strings.TrimPrefix(p.Ref, "#/$defs/")])
	case p.Enum != nil:
		return joined(p.Enum)
	case p.AnyOf != nil:
		var all []string
		for _, c := range p.AnyOf {
			if k := r.kind(c); !slices.Contains(all, k) {
				all = append(all, k)
			}
		}
		return strings.Join(all, ", or ")
	case p.Description != "":
		return p.Description
	}
	switch t := p.Type.(type) {
	case string:
		return map[string]string{"array": "list", "object": "mapping"}[t] + map[bool]string{true: t}[t != "array" && t != "object"]
	case []any:
		return joined(t)
	}
	return "any"
}

func joined(all []any) string {
	var out []string
	for _, v := range all {
		out = append(out, fmt.Sprint(v))
	}
	return strings.Join(out, " or ")
}

func presetText(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func rangeOf(p property) string {
	if p.Minimum == nil || p.Maximum == nil {
		return ""
	}
	return fmt.Sprintf("%.0f to %.0f", *p.Minimum, *p.Maximum)
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func TestTheReferenceIsThatOfTheSchema(t *testing.T) {
	var schema property
	if err := json.Unmarshal(lb.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	r := &reference{defs: schema.Defs}
	r.walk("", schema, 0)
	if len(r.rows) < 100 {
		t.Fatalf("the schema has %d keys", len(r.rows))
	}
	full, err := os.ReadFile("../../../examples/full.yaml")
	if err != nil {
		t.Fatal(err)
	}

	var page, man strings.Builder
	page.WriteString("# The configuration file\n\n<!-- Made from the schema: UPDATE=1 go test ./cmd/lbd/app -run Reference -->\n\n" +
		"`lbd validate --schema` prints the JSON Schema, for editors; `lbd validate -c FILE` reports every error at once. " +
		"The filters are in [l7/filter/README.md](../../l7/filter/README.md).\n\n## The whole shape\n\n```yaml\n" + string(full) +
		"```\n\n## Every key\n\n`NAME` is a name that you choose, `[]` each item of a list.\n\n| key | value | default | |\n|---|---|---|---|\n")
	man.WriteString(".\\\" Made from the schema: UPDATE=1 go test ./cmd/lbd/app -run Reference\n.TH LBD.YAML 5 \"\" Cirque \"Cirque's manual\"\n" +
		".SH NAME\nlbd.yaml \\- the configuration of Cirque\n.SH DESCRIPTION\nlbd(8) reads it; lbd validate reports every error at once.\n.SH EXAMPLE\n.nf\n")
	man.WriteString(roff(string(full)) + ".fi\n.SH KEYS\nNAME is a name that you choose, [] each item of a list.\n")
	for _, w := range r.rows {
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", w.path, strings.ReplaceAll(w.kind, "|", "\\|"), w.preset, w.note)
		what := w.kind
		if w.preset != "" {
			what += "; default " + w.preset
		}
		if w.note != "" {
			what += "; " + w.note
		}
		fmt.Fprintf(&man, ".TP\n.B %s\n%s\n", roff(w.path), roff(what))
	}
	man.WriteString(".SH SEE ALSO\nlbd(8), lbctl(1)\n")
	manual.Check(t, "../../../docs/reference/config.md", []byte(page.String()))
	manual.Check(t, "../../../packaging/man/lbd.yaml.5", []byte(man.String()))
}

func roff(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\e`), "-", `\-`), "\n.", "\n\\&.")
}
