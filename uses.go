package lb

import (
	"github.com/goccy/go-yaml/ast"
)

// File is a file that a filter's settings name: a field of this type reads from
// the file's name. Config.Files lists it, so that the supervisor reads it and
// the worker, which opens no path, has the content when the filter is built.
type File struct {
	Name    string
	Content []byte
	Read    bool // false while a configuration is only checked
}

// PoolRef is the name of a pool in a filter's settings. A document that has no
// such pool is refused.
type PoolRef string

// uses collects what the settings of one filter refer to, while they are read
// through a copy of the document that points here.
type uses struct {
	files    []fileName
	pools    []Node
	contents map[string][]byte // nil: not read yet
}

// through is the node, read so that u hears of what it refers to.
func (n Node) through(u *uses) Node {
	if n.doc == nil {
		return n
	}
	doc := *n.doc
	doc.uses = u
	return Node{&doc, n.node}
}

// WithFiles is the node with the contents of the files that it may name, by
// name: what a filter is built of.
func (n Node) WithFiles(contents map[string][]byte) Node {
	if contents == nil {
		contents = map[string][]byte{}
	}
	return n.through(&uses{contents: contents})
}

func (f *File) decodeNode(d *decoder, n ast.Node) {
	name, ok := scalarText(n)
	if !ok || name == "" {
		d.errorf(n, CodeType, "", "this is %s; it wants the name of a file", kindOf(n))
		return
	}
	f.Name = name
	u := d.doc.uses
	if u == nil {
		return
	}
	u.files = append(u.files, fileName{name, *d.doc.errorNode(n, "", "", "")})
	if u.contents == nil {
		return
	}
	if f.Content, f.Read = u.contents[name]; !f.Read {
		d.errorf(n, CodePath, "", "file %q was not read", name)
	}
}

func (p *PoolRef) decodeNode(d *decoder, n ast.Node) {
	name, ok := scalarText(n)
	if !ok {
		d.errorf(n, CodeType, "", "this is %s; it wants the name of a pool", kindOf(n))
		return
	}
	*p = PoolRef(name)
	if u := d.doc.uses; u != nil {
		u.pools = append(u.pools, Node{d.doc, n})
	}
}
