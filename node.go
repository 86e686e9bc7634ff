package lb

import (
	"fmt"
	"reflect"

	"github.com/goccy/go-yaml/ast"
)

// Node is a part of a document that another package reads, with its place. A
// filter gets its configuration as one. The zero Node is empty.
type Node struct {
	doc  *document
	node ast.Node
}

// Decode reads the node into v, a pointer to a struct with the tags that
// decoder knows (yaml, default, range, one, words, need, short, by). It is strict and finds
// every error: what it returns is an Errors. An empty node gives v's defaults.
func (n Node) Decode(v any) error {
	target := reflect.ValueOf(v).Elem()
	if n.IsEmpty() && target.Kind() == reflect.Struct {
		s := shapeOf(target.Type())
		s.setDefaults(target)
		if len(s.needed) > 0 {
			return n.Errorf("%s is missing", s.needed[0])
		}
		return nil
	}
	d := newDecoder(n.doc, map[any]Node{})
	d.value(n.node, target, field{})
	return d.errs.sorted()
}

// IsEmpty reports whether nothing stands in the node's place.
func (n Node) IsEmpty() bool { return n.node == nil || isNull(n.node) }

// Key is the value that stands under a key of the node, to point an error at;
// without such a key it is the node itself.
func (n Node) Key(key string) Node {
	m, ok := n.node.(ast.MapNode)
	if !ok {
		return n
	}
	for it := m.MapRange(); it.Next(); {
		if text, _ := scalarText(it.Key()); text == key {
			return Node{n.doc, it.Value()}
		}
	}
	return n
}

// Errorf is an error at the node's place, as an Errors.
func (n Node) Errorf(format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	if n.doc == nil {
		return Errors{{Code: CodeFilter, Message: message}}
	}
	return Errors{n.doc.errorNode(n.node, CodeFilter, message, "")}
}

func (n *Node) decodeNode(d *decoder, node ast.Node) { *n = Node{d.doc, node} }

// ParseNode reads a text as one node: for tests of what reads nodes.
func ParseNode(file string, text []byte) (Node, error) {
	doc, err := open(file, text)
	if err != nil {
		return Node{}, Errors{err}
	}
	return Node{doc, doc.root}, nil
}

// decodeNode reads a filter: a mapping of one name, or just the name.
func (f *FilterSpec) decodeNode(d *decoder, n ast.Node) {
	f.Node = Node{d.doc, nil}
	if isNull(n) {
		d.errorf(n, CodeEmpty, "name a filter or remove the line", "this filter has no name")
		return
	}
	if text, ok := scalarText(n); ok {
		f.Name = text
		f.place = Node{d.doc, n}
		return
	}
	entries, ok := d.entries(n, field{key: "filter"})
	switch {
	case !ok:
	case len(entries) != 1:
		d.errorf(n, CodeType, "begin each filter with - ", "a filter is one name with its settings; here are %d", len(entries))
	default:
		f.Name, f.place = entries[0].key, Node{d.doc, entries[0].node.Key}
		f.Node.node, _ = d.plain(entries[0].node.Value)
	}
}
