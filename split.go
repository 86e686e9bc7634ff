package lb

import (
	"bytes"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Objects is the part of a document that holds objects: the sections
// listeners, routes, pools and services, as they stand, with their comments.
// A document that is not YAML has none.
func Objects(doc []byte) []byte {
	return sections(doc, func(key string) bool { return slices.Contains(objectSections, key) })
}

// Settings is the rest of a document: everything but the objects.
func Settings(doc []byte) []byte {
	return sections(doc, func(key string) bool { return !slices.Contains(objectSections, key) })
}

// sections are the parts of a document under the top-level keys wanted.
func sections(text []byte, want func(key string) bool) []byte {
	doc, err := open("", text)
	if err != nil || doc.root == nil {
		return nil
	}
	root, ok := doc.root.(*ast.MappingNode)
	if !ok {
		return nil
	}
	if root.IsFlowStyle {
		return flowSections(root, want)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	var out []byte
	for i, m := range root.Values {
		from := sectionStart(lines, firstToken(m).Position.Line-1)
		to := len(lines)
		if i == 0 && want("") {
			from = 0 // what opens the file belongs to its settings
		}
		if i+1 < len(root.Values) {
			to = sectionStart(lines, firstToken(root.Values[i+1]).Position.Line-1)
		}
		if key, _ := scalarText(m.Key); want(key) {
			out = append(out, bytes.Join(lines[from:to], nil)...)
		}
	}
	return withoutEnd(out)
}

// withoutEnd cuts off what ends a document: more may follow these sections.
func withoutEnd(text []byte) []byte {
	if end := bytes.LastIndex(text, []byte("\n...")); end >= 0 && len(bytes.TrimSpace(text[end+4:])) == 0 {
		return text[:end+1]
	}
	return text
}

// sectionStart is the first of the comment lines directly above a key's line.
func sectionStart(lines [][]byte, line int) int {
	for line > 0 && bytes.HasPrefix(bytes.TrimLeft(lines[line-1], " \t"), []byte("#")) {
		line--
	}
	return line
}

// flowSections writes the sections of a document that is all braces.
func flowSections(root *ast.MappingNode, want func(key string) bool) []byte {
	var out strings.Builder
	for _, m := range root.Values {
		if key, _ := scalarText(m.Key); want(key) {
			out.WriteString(key + ": " + strings.TrimSpace(m.Value.String()) + "\n")
		}
	}
	return []byte(out.String())
}

// sameBut reports whether two documents say the same, but for what stands
// under a path of keys.
func sameBut(a, b *document, path ...string) bool {
	return sameNodes(Node{a, a.root}, Node{b, b.root}, path)
}

func sameNodes(a, b Node, but []string) bool {
	a.node, _ = newDecoder(a.doc, nil).plain(a.node)
	b.node, _ = newDecoder(b.doc, nil).plain(b.node)
	if a.node == nil || b.node == nil {
		return a.node == b.node
	}
	switch x := a.node.(type) {
	case *ast.MappingNode:
		y, ok := b.node.(*ast.MappingNode)
		return ok && slices.EqualFunc(x.Values, y.Values, func(m, n *ast.MappingValueNode) bool {
			return sameEntries(a.doc, b.doc, m, n, but)
		})
	case *ast.SequenceNode:
		y, ok := b.node.(*ast.SequenceNode)
		return ok && slices.EqualFunc(x.Values, y.Values, func(m, n ast.Node) bool {
			return sameNodes(Node{a.doc, m}, Node{b.doc, n}, nil)
		})
	}
	s, scalar1 := scalarText(a.node)
	t, scalar2 := scalarText(b.node)
	return scalar1 == scalar2 && s == t && kindOf(a.node) == kindOf(b.node)
}

// sameEntries compares one key of two mappings; the path ends where nothing
// more is compared.
func sameEntries(a, b *document, m, n *ast.MappingValueNode, but []string) bool {
	key, _ := scalarText(m.Key)
	other, _ := scalarText(n.Key)
	if key != other {
		return false
	}
	if len(but) == 0 || but[0] != key {
		return sameNodes(Node{a, m.Value}, Node{b, n.Value}, nil)
	}
	return len(but) == 1 || sameNodes(Node{a, m.Value}, Node{b, n.Value}, but[1:])
}
