package lb

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
)

func TestExamplesParse(t *testing.T) {
	files, _ := filepath.Glob("examples/*.yaml")
	if len(files) < 2 {
		t.Fatalf("found %v", files)
	}
	for _, file := range files {
		if _, err := Parse(readFile(t, file), Options{File: file, Host: testHost}); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWhatComesLaterIsRefusedAndNothingElse(t *testing.T) {
	text := strings.ReplaceAll(string(readFile(t, "examples/full.yaml")), "# later: ", "")
	_, err := Parse([]byte(text), Options{Host: testHost})
	var all Errors
	if !errors.As(err, &all) {
		t.Fatalf("got %v", err)
	}
	for _, e := range all {
		if e.Code != CodeUnavailable {
			t.Errorf("%v", e)
		}
	}
	if lines := strings.Count(string(readFile(t, "examples/full.yaml")), "# later: "); len(all) < lines {
		t.Errorf("%d lines come later, %d of them are refused:\n%v", lines, len(all), err)
	}
}

func TestEveryUnavailablePathExists(t *testing.T) {
	properties := object{}
	if err := json.Unmarshal(Schema(), &properties); err != nil {
		t.Fatal(err)
	}
	check := checker{root: properties}
	for path := range unavailable {
		if !check.hasPath(properties, strings.Split(path, ".")) {
			t.Errorf("the table lists %s, which the shape does not have", path)
		}
	}
}

func TestExamplesFitTheSchema(t *testing.T) {
	var schema object
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	check := checker{root: schema}
	for _, file := range []string{"examples/quickstart.yaml", "examples/full.yaml"} {
		text := strings.ReplaceAll(string(readFile(t, file)), "# later: ", "")
		if errs := check.document(t, text); len(errs) > 0 {
			t.Errorf("%s: %v", file, errs)
		}
	}
	for _, bad := range []string{"LB1006-unknown-key", "LB1007-wrong-type", "LB1008-missing", "LB1010-choice", "LB1012-duration", "LB1013-size", "LB1014-share"} {
		if errs := check.document(t, string(readFile(t, "testdata/bad/"+bad+".yaml"))); len(errs) == 0 {
			t.Errorf("the schema accepts %s", bad)
		}
	}
}

// checker is as much of JSON Schema as Schema uses.
type checker struct {
	root object
	errs []string
}

func (c *checker) document(t *testing.T, text string) []string {
	doc, err := open("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c.errs = nil
	c.check("", c.root, plainValue(Node{doc, doc.root}))
	return c.errs
}

// plainValue is a node as encoding/json would give it.
func plainValue(n Node) any {
	d := newDecoder(n.doc, nil)
	node, _ := d.plain(n.node)
	if entries, ok := d.entries(node, field{}); ok {
		out := object{}
		for _, e := range entries {
			out[e.key] = plainValue(Node{n.doc, e.node.Value})
		}
		return out
	}
	if seq, ok := node.(*ast.SequenceNode); ok {
		out := make([]any, len(seq.Values))
		for i, item := range seq.Values {
			out[i] = plainValue(Node{n.doc, item})
		}
		return out
	}
	text, _ := scalarText(node)
	switch kindOf(node) {
	case "a number":
		var f float64
		fmt.Sscan(text, &f)
		return f
	case "a boolean":
		return text == "true"
	}
	return text
}

func (c *checker) check(path string, s object, v any) {
	fail := func(format string, args ...any) {
		c.errs = append(c.errs, path+": "+fmt.Sprintf(format, args...))
	}
	if ref, ok := s["$ref"].(string); ok {
		c.check(path, c.root["$defs"].(object)[strings.TrimPrefix(ref, "#/$defs/")].(object), v)
		return
	}
	if choices, ok := s["anyOf"].([]any); ok && !c.anyOf(path, choices, v) {
		fail("%v fits none", v)
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		fail("%v is none of %v", v, enum)
	}
	if !typeFits(s["type"], v) {
		fail("%v is not %v", v, s["type"])
		return
	}
	switch v := v.(type) {
	case string:
		if pattern, ok := s["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
			fail("%q does not match %s", v, pattern)
		}
	case float64:
		if low, ok := s["minimum"].(float64); ok && (v < low || v > s["maximum"].(float64)) {
			fail("%v is out of range", v)
		}
	case []any:
		for i, item := range v {
			c.check(fmt.Sprintf("%s.%d", path, i), s["items"].(object), item)
		}
	case object:
		c.object(path, s, v)
	}
}

func (c *checker) anyOf(path string, schemas []any, v any) bool {
	return slices.ContainsFunc(schemas, func(s any) bool {
		probe := checker{root: c.root}
		probe.check(path, s.(object), v)
		return len(probe.errs) == 0
	})
}

func (c *checker) object(path string, s, v object) {
	properties, _ := s["properties"].(object)
	for key, value := range v {
		if p, ok := properties[key].(object); ok {
			c.check(path+"."+key, p, value)
		} else if more, ok := s["additionalProperties"].(object); ok {
			c.check(path+"."+key, more, value)
		} else if s["additionalProperties"] == false {
			c.errs = append(c.errs, path+": unknown key "+key)
		}
	}
	required, _ := s["required"].([]any)
	for _, key := range required {
		if _, ok := v[key.(string)]; !ok {
			c.errs = append(c.errs, path+": no "+key.(string))
		}
	}
}

func typeFits(want any, v any) bool {
	var got []string
	switch v := v.(type) {
	case string:
		got = []string{"string"}
	case float64:
		got = []string{"number"}
		if v == float64(int64(v)) {
			got = append(got, "integer")
		}
	case bool:
		got = []string{"boolean"}
	case []any:
		got = []string{"array"}
	case object:
		got = []string{"object"}
	}
	switch want := want.(type) {
	case nil:
		return true
	case string:
		return slices.Contains(got, want)
	case []any:
		return slices.ContainsFunc(want, func(w any) bool { return slices.Contains(got, w.(string)) })
	}
	return false
}

// hasPath reports whether the schema has a place at the path.
func (c *checker) hasPath(s object, path []string) bool {
	if ref, ok := s["$ref"].(string); ok {
		return c.hasPath(c.root["$defs"].(object)[strings.TrimPrefix(ref, "#/$defs/")].(object), path)
	}
	if choices, ok := s["anyOf"].([]any); ok {
		return slices.ContainsFunc(choices, func(s any) bool { return c.hasPath(s.(object), path) })
	}
	if len(path) == 0 {
		return true
	}
	if path[0] == "*" {
		for _, key := range []string{"additionalProperties", "items"} {
			if next, ok := s[key].(object); ok {
				return c.hasPath(next, path[1:])
			}
		}
		return false
	}
	properties, _ := s["properties"].(object)
	next, ok := properties[path[0]].(object)
	return ok && c.hasPath(next, path[1:])
}
