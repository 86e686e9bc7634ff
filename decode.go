package lb

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// decoder reads YAML nodes into Go values. It is strict: unknown and repeated
// keys, missing values and wrong types are errors, and it goes on after one to
// find them all. The struct tags it knows:
//
//	yaml:"key"         the key; "-" is not read
//	default:"2s"       the value when the key is absent, as the document would say it; lists by comma
//	range:"1..64"      bounds of numbers, durations, sizes and shares; a list's or text's length
//	one:"a|b"          the values that text may have
//	words:"auto=0"     a word that stands for a value
//	need:"true"        the key must be there
//	short:"true"       a scalar in the struct's place sets this field alone
//	by:"Name"          (lists of structs) a mapping whose keys go to that field, in order
type decoder struct {
	doc    *document
	places map[any]Node // pointer to a decoded field -> where it stands
	errs   Errors
	failed map[ast.Node]bool // an error points at it

	path    string // pools.*.check, to look up what is not available
	depth   int
	refused ast.Node // the last one
}

// maxErrors bounds how many errors one document gives.
const maxErrors = 1000

// nodeDecoder is a type that reads its own node.
type nodeDecoder interface {
	decodeNode(d *decoder, n ast.Node)
}

func newDecoder(doc *document, places map[any]Node) *decoder {
	return &decoder{doc: doc, places: places, failed: map[ast.Node]bool{}}
}

func (d *decoder) errorf(n ast.Node, code, hint, format string, args ...any) {
	d.failed[n] = true
	d.report(n, code, hint, format, args...)
}

// report is errorf for an error that leaves the value readable.
func (d *decoder) report(n ast.Node, code, hint, format string, args ...any) {
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, d.doc.errorNode(n, code, fmt.Sprintf(format, args...), hint))
	}
}

// value reads n into v, which is addressable.
func (d *decoder) value(n ast.Node, v reflect.Value, f field) {
	n, ok := d.plain(n)
	if !ok {
		return
	}
	if d.depth == maxDepth {
		d.errorf(n, CodeTooDeep, "", "values nest deeper than %d levels", maxDepth)
		return
	}
	d.depth++
	defer func() { d.depth-- }()
	d.places[v.Addr().Interface()] = Node{d.doc, n}
	d.refuseUnavailable(n)

	if own, ok := v.Addr().Interface().(nodeDecoder); ok {
		own.decodeNode(d, n)
		return
	}
	if isNull(n) {
		d.errorf(n, CodeEmpty, "give it a value or remove the key", "%s has no value", f.title())
		return
	}
	if read := scalarReader(v.Type()); read != nil {
		d.scalar(n, v, f, read)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), f)
	case reflect.Struct:
		d.structure(n, v, f)
	case reflect.Slice:
		d.list(n, v, f)
	case reflect.Map:
		d.mapping(n, v, f)
	default:
		panic("lb: no way to decode " + v.Type().String())
	}
}

// plain follows anchors and aliases to the value and refuses tags.
func (d *decoder) plain(n ast.Node) (ast.Node, bool) {
	for {
		switch t := n.(type) {
		case nil:
			return nil, false
		case *ast.AnchorNode:
			n = t.Value
		case *ast.AliasNode:
			n = d.doc.anchors[t]
		case *ast.TagNode:
			d.errorf(t, CodeYAML, "remove the tag", "YAML tags are not supported")
			return nil, false
		default:
			return n, true
		}
	}
}

// at reads a value one step further down the path.
func (d *decoder) at(step string, n ast.Node, v reflect.Value, f field) {
	outer := d.path
	if outer == "" {
		d.path = step
	} else {
		d.path = outer + "." + step
	}
	d.value(n, v, f)
	d.path = outer
}

// scalar reads one value from its text.
func (d *decoder) scalar(n ast.Node, v reflect.Value, f field, read reader) {
	text, ok := scalarText(n)
	if !ok {
		d.errorf(n, CodeType, "", "%s is %s; it wants %s", f.title(), kindOf(n), wanted(v.Type()))
		return
	}
	if word, ok := f.words[text]; ok {
		text = word
	} else if hint, ok := textOnly(n, v, text); !ok {
		d.errorf(n, CodeType, hint, "%s is %s; it wants %s", f.title(), kindOf(n), wanted(v.Type()))
		return
	}
	if err := read(text, v); err != nil {
		d.errorf(n, err.code, err.hint, "%s", strings.Replace(err.message, "%s", f.title(), 1))
		return
	}
	if err := f.check(v); err != nil {
		d.errorf(n, err.code, err.hint, "%s", strings.Replace(err.message, "%s", f.title(), 1))
	}
}

// structure reads a mapping by the struct's keys.
func (d *decoder) structure(n ast.Node, v reflect.Value, f field) {
	shape := shapeOf(v.Type())
	shape.setDefaults(v) // names that stand outside (by:"Name") are not touched
	if shape.short != nil {
		if _, ok := scalarText(n); ok {
			d.value(n, v.FieldByIndex(shape.short.index), *shape.short)
			return
		}
	}
	entries, ok := d.entries(n, f)
	if !ok {
		return
	}
	present := map[string]bool{}
	for _, e := range entries {
		sub, known := shape.fields[e.key]
		if !known {
			d.errorf(e.node.Key, CodeUnknownKey, nearest(e.key, shape.keys), "unknown key %q", e.key)
			continue
		}
		present[e.key] = true
		d.at(e.key, e.node.Value, v.FieldByIndex(sub.index), sub)
	}
	for _, key := range shape.needed {
		if !present[key] {
			d.errorf(n, CodeMissing, "", "%s is missing", key)
		}
	}
}

// list reads a sequence, or a mapping when its keys name the elements.
func (d *decoder) list(n ast.Node, v reflect.Value, f field) {
	if f.by != "" {
		d.named(n, v, f)
		return
	}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		hint := ""
		if text, ok := scalarText(n); ok && len(text) <= 64 {
			hint = fmt.Sprintf("write [%s]", text)
		}
		d.errorf(n, CodeType, hint, "%s is %s; it wants a list", f.title(), kindOf(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		d.at("*", item, element(v, i), f.item(""))
	}
	d.checkLength(n, len(seq.Values), f)
}

// element is the i-th place of a slice. A pointer in it is never nil, also
// when its value does not read.
func element(v reflect.Value, i int) reflect.Value {
	item := v.Index(i)
	if item.Kind() == reflect.Pointer {
		item.Set(reflect.New(item.Type().Elem()))
		item = item.Elem()
	}
	return item
}

// named reads a mapping into a slice; each key becomes a field of its element.
func (d *decoder) named(n ast.Node, v reflect.Value, f field) {
	entries, ok := d.entries(n, f)
	if !ok {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(entries), len(entries)))
	for i, e := range entries {
		item := element(v, i)
		if !validName(e.key) {
			d.errorf(e.node.Key, CodeName, "a letter or digit, then letters, digits and . _ -; at most 63", "%q is not a name", e.key)
		}
		name := item.FieldByName(f.by)
		name.SetString(e.key)
		d.places[name.Addr().Interface()] = Node{d.doc, e.node.Key}
		d.at("*", e.node.Value, item, f.item(e.key))
	}
	d.checkLength(n, len(entries), f)
}

// mapping reads a mapping with free keys.
func (d *decoder) mapping(n ast.Node, v reflect.Value, f field) {
	entries, ok := d.entries(n, f)
	if !ok {
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(entries)))
	for _, e := range entries {
		item := reflect.New(v.Type().Elem()).Elem()
		d.at("*", e.node.Value, item, f.item(e.key))
		v.SetMapIndex(reflect.ValueOf(e.key).Convert(v.Type().Key()), item)
	}
	d.checkLength(n, len(entries), f)
}

func (d *decoder) checkLength(n ast.Node, length int, f field) {
	if err := f.checkRange(reflect.ValueOf(length)); err != nil {
		d.errorf(n, err.code, "", "%s has %d elements; it wants between %s and %s", f.title(), length, f.low, f.high)
	}
}

// entry is one key of a mapping.
type entry struct {
	key  string
	node *ast.MappingValueNode
}

// entries lists a mapping's keys, each once.
func (d *decoder) entries(n ast.Node, f field) ([]entry, bool) {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		d.errorf(n, CodeType, "", "%s is %s; it wants a mapping", f.title(), kindOf(n))
		return nil, false
	}
	out := make([]entry, 0, len(values))
	lines := make(map[string]int, len(values))
	for _, m := range values {
		key, ok := d.key(m.Key)
		if !ok {
			continue
		}
		if line, twice := lines[key]; twice {
			d.errorf(m.Key, CodeDuplicate, fmt.Sprintf("first on line %d", line), "key %q appears twice", key)
			continue
		}
		lines[key] = firstToken(m.Key).Position.Line
		out = append(out, entry{key, m})
	}
	return out, true
}

// key is the text of a mapping's key.
func (d *decoder) key(n ast.MapKeyNode) (string, bool) {
	if n.IsMergeKey() {
		d.errorf(n, CodeYAML, "write the keys out", "YAML merge keys are not supported")
		return "", false
	}
	text, ok := scalarText(n)
	if !ok {
		d.errorf(n, CodeYAML, "", "a key must be plain text")
	}
	return text, ok
}

// scalarText is a scalar as the document has it.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func isNull(n ast.Node) bool {
	_, ok := n.(*ast.NullNode)
	return ok
}

// kindOf says what stands in the document.
func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "a boolean"
	case *ast.NullNode:
		return "empty"
	}
	return "text"
}

// quoted reports whether a string stands in quotes.
func quoted(n ast.Node) bool {
	t := n.GetToken().Type
	return t == token.SingleQuoteType || t == token.DoubleQuoteType
}

// validName reports whether a name of a listener, pool or service is one: it
// must be safe in a path, a label and an identity ("pool/address").
func validName(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return true
}
