// Package admintest holds JSON against its schema, in tests.
package admintest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Conforms lists how a JSON document differs from a schema: as much of JSON
// Schema as package admin uses. References are looked up from root.
func Conforms(root, schema map[string]any, doc []byte) []string {
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		return []string{err.Error()}
	}
	c := checker{root: root}
	c.check("$", schema, v)
	return c.errs
}

type checker struct {
	root map[string]any
	errs []string
}

func (c *checker) fail(path, format string, args ...any) {
	c.errs = append(c.errs, path+": "+fmt.Sprintf(format, args...))
}

func (c *checker) check(path string, schema map[string]any, v any) {
	if ref, ok := schema["$ref"].(string); ok {
		c.check(path, c.find(ref), v)
		return
	}
	if kind, ok := schema["type"].(string); ok && !fits(kind, v) {
		c.fail(path, "%v is no %s", v, kind)
		return
	}
	if text, ok := v.(string); ok && schema["format"] == "date-time" {
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
			c.fail(path, "%v", err)
		}
	}
	switch v := v.(type) {
	case []any:
		items, _ := schema["items"].(map[string]any)
		for i, item := range v {
			c.check(fmt.Sprintf("%s[%d]", path, i), items, item)
		}
	case map[string]any:
		c.object(path, schema, v)
	}
}

func (c *checker) object(path string, schema, v map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	more, open := schema["additionalProperties"].(map[string]any)
	for key, value := range v {
		if p, ok := properties[key].(map[string]any); ok {
			c.check(path+"."+key, p, value)
		} else if open {
			c.check(path+"."+key, more, value)
		} else if schema["additionalProperties"] == false {
			c.fail(path, "unknown key %s", key)
		}
	}
	required, _ := schema["required"].([]any)
	for _, key := range required {
		if _, ok := v[key.(string)]; !ok {
			c.fail(path, "no %s", key)
		}
	}
}

// find follows a reference such as #/$defs/Status.
func (c *checker) find(ref string) map[string]any {
	at := c.root
	for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		at, _ = at[step].(map[string]any)
	}
	if at == nil {
		c.fail(ref, "leads nowhere")
	}
	return at
}

func fits(kind string, v any) bool {
	var is []string
	switch v := v.(type) {
	case string:
		is = []string{"string"}
	case float64:
		is = []string{"number"}
		if v == float64(int64(v)) {
			is = append(is, "integer")
		}
	case bool:
		is = []string{"boolean"}
	case []any:
		is = []string{"array"}
	case map[string]any:
		is = []string{"object"}
	}
	return slices.Contains(is, kind)
}
