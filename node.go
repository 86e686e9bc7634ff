package lb

import "github.com/goccy/go-yaml/ast"

// Node is a part of a document that another package reads, with its place.
type Node struct {
	doc  *document
	node ast.Node
}
