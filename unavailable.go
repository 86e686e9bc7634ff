package lb

import (
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// unavailable lists what the shape of a document has and this version cannot
// do yet. It is refused rather than ignored; to lift a row is to delete it. A
// row is a path, with =VALUE when only that value is refused and !VALUE when
// every other one is.
var unavailable = rows(`
	services.*.forward=nat
`)

// refusal is what a row says of a path.
type refusal struct {
	values  []string // only these are refused; none: every value
	allowed string   // and this one never
}

func rows(text string) map[string]refusal {
	out := map[string]refusal{}
	for row := range strings.FieldsSeq(text) {
		path, value, only := strings.Cut(row, "=")
		path, allowed, _ := strings.Cut(path, "!")
		r := out[path]
		r.allowed = allowed
		if only {
			r.values = append(r.values, value)
		}
		out[path] = r
	}
	return out
}

// refuse reports whether a value (its text, when it is a scalar) is refused.
func (r refusal) refuse(text string, scalar bool) bool {
	if scalar && r.allowed != "" && text == r.allowed {
		return false
	}
	if len(r.values) == 0 {
		return true
	}
	for _, v := range r.values {
		if scalar && v == text {
			return true
		}
	}
	return false
}

// refuseUnavailable reports a value that stands at a path of the table.
func (d *decoder) refuseUnavailable(n ast.Node) {
	row, ok := unavailable[d.path]
	if !ok {
		return
	}
	text, scalar := scalarText(n)
	if !row.refuse(text, scalar) || d.refused == n {
		return
	}
	d.refused = n // a pointer and what it points to stand in one place
	key := d.path
	if at := strings.LastIndex(key, "*."); at >= 0 {
		key = key[at+2:]
	}
	if len(row.values) > 0 {
		key += " " + text
	}
	d.report(n, CodeUnavailable, "", "%s is not available in this version", key)
}
