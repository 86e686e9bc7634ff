package lb

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// What an edit may find. Callers branch on these.
var (
	ErrNoPool        = errors.New("no such pool")
	ErrNoBackend     = errors.New("no such backend")
	ErrBackendExists = errors.New("the backend exists already")
	// ErrByHand: the document is written in a way that an edit could harm.
	ErrByHand = errors.New("the document cannot be edited safely; edit it by hand")
)

// AddBackend adds a backend to a pool of the document and leaves all else as
// it stands, comments included. What it returns is well-formed and holds the
// backend, but is not validated.
func AddBackend(doc []byte, pool string, b Backend) ([]byte, error) {
	e, err := newEdit(doc, pool)
	if err != nil {
		return nil, err
	}
	b.Address = canonicalAddress(b.Address)
	if e.index(b.Address) >= 0 {
		return nil, fmt.Errorf("add backend %s to pool %s: %w", b.Address, pool, ErrBackendExists)
	}
	if e.list.IsFlowStyle {
		e.addFlow(renderBackend(b))
	} else {
		e.addBlock(renderBackend(b))
	}
	return e.finish(append(e.backends, b))
}

// SetBackend replaces the backend of b's address.
func SetBackend(doc []byte, pool string, b Backend) ([]byte, error) {
	e, err := newEdit(doc, pool)
	if err != nil {
		return nil, err
	}
	b.Address = canonicalAddress(b.Address)
	i := e.index(b.Address)
	if i < 0 {
		return nil, fmt.Errorf("set backend %s of pool %s: %w", b.Address, pool, ErrNoBackend)
	}
	item := e.item(i)
	if e.hasComment(i) {
		e.fail()
	}
	e.replace(item.start, item.end, renderBackend(b))
	want := slices.Clone(e.backends)
	want[i] = b
	return e.finish(want)
}

// RemoveBackend takes a backend out of a pool.
func RemoveBackend(doc []byte, pool, address string) ([]byte, error) {
	e, err := newEdit(doc, pool)
	if err != nil {
		return nil, err
	}
	i := e.index(canonicalAddress(address))
	if i < 0 {
		return nil, fmt.Errorf("remove backend %s of pool %s: %w", address, pool, ErrNoBackend)
	}
	if e.list.IsFlowStyle {
		e.removeFlow(i)
	} else {
		e.removeBlock(i)
	}
	return e.finish(slices.Delete(slices.Clone(e.backends), i, i+1))
}

// renderBackend writes a backend as short as it goes.
func renderBackend(b Backend) string {
	if b.Weight == 1 && !b.Backup {
		return fmt.Sprintf("%q", b.Address)
	}
	out := fmt.Sprintf("{ address: %q", b.Address)
	if b.Weight != 1 {
		out += fmt.Sprintf(", weight: %d", b.Weight)
	}
	if b.Backup {
		out += ", backup: true"
	}
	return out + " }"
}

// edit is one change of a pool's list of backends in a text.
type edit struct {
	text     []byte // with \n for line ends
	crlf     bool   // the document has \r\n
	doc      *document
	pool     string
	list     *ast.SequenceNode
	backends []Backend
	err      error
}

// span is a part of the text, in bytes.
type span struct{ start, end int }

func newEdit(text []byte, pool string) (*edit, error) {
	doc, err := open("", text)
	if err != nil {
		return nil, Errors{err}
	}
	e := &edit{text: bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), doc: doc, pool: pool}
	e.crlf = len(e.text) < len(text)
	if e.crlf && bytes.Count(text, []byte("\r\n")) < bytes.Count(text, []byte("\n")) {
		e.fail() // line ends are mixed
	}
	list := doc.find("pools", pool, "backends")
	if doc.find("pools", pool) == nil {
		return nil, fmt.Errorf("pool %s: %w", pool, ErrNoPool)
	}
	var ok bool
	if e.list, ok = list.(*ast.SequenceNode); !ok {
		return nil, fmt.Errorf("backends of pool %s are no plain list: %w", pool, ErrByHand)
	}
	e.backends = doc.backends(pool)
	return e, nil
}

// find is the node under a path of keys, through no alias.
func (d *document) find(path ...string) ast.Node {
	n := d.root
	for _, key := range path {
		next := Node{d, n}.Key(key)
		if next.node == n {
			return nil
		}
		n = next.node
	}
	return n
}

// backends reads the backends of a pool, as far as they read.
func (d *document) backends(pool string) []Backend {
	var list []Backend
	dec := newDecoder(d, map[any]Node{})
	dec.value(d.find("pools", pool, "backends"), reflect.ValueOf(&list).Elem(), field{})
	for i := range list {
		list[i].Address = canonicalAddress(list[i].Address)
	}
	return list
}

func (e *edit) index(address string) int {
	return slices.IndexFunc(e.backends, func(b Backend) bool { return b.Address == address })
}

// offset is where a line and column stand in the text.
func (e *edit) offset(line, column int) int {
	at := 0
	for range line - 1 {
		next := bytes.IndexByte(e.text[at:], '\n')
		if next < 0 {
			e.fail()
			return len(e.text)
		}
		at += next + 1
	}
	if line == 1 && bytes.HasPrefix(e.text, []byte("\ufeff")) {
		at += len("\ufeff")
	}
	for range column - 1 {
		_, n := utf8.DecodeRune(e.text[at:])
		at += n
	}
	return at
}

func (e *edit) fail() {
	if e.err == nil {
		e.err = fmt.Errorf("backends of pool %s: %w", e.pool, ErrByHand)
	}
}

// tokenSpan is where a token stands. A token that is not where it says to be
// (the parser's columns may be off after odd text) fails the edit.
func (e *edit) tokenSpan(t *token.Token) span {
	start := e.offset(t.Position.Line, t.Position.Column)
	raw := strings.TrimSpace(t.Origin)
	if start > len(e.text) || !bytes.HasPrefix(e.text[start:], []byte(raw)) {
		e.fail()
		return span{}
	}
	return span{start, start + len(raw)}
}

// item is where the i-th element stands, without dash, comma and comment.
func (e *edit) item(i int) span {
	first := firstToken(e.list.Values[i])
	last := e.lastToken(first)
	return span{e.tokenSpan(first).start, e.tokenSpan(last).end}
}

// lastToken walks from an element's first token to its last: up to the comma
// or bracket that ends it in a flow, the next dash or outer key in a block.
func (e *edit) lastToken(first *token.Token) *token.Token {
	depth := 0
	last := first
	for t := first; t != nil; t = t.Next {
		switch t.Type {
		case token.CommentType:
			continue
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			if depth == 0 {
				return last
			}
			depth--
		case token.CollectEntryType:
			if depth == 0 {
				return last
			}
		}
		inBlock := !e.list.IsFlowStyle && depth == 0 && t != first
		if inBlock && t.Position.Line > first.Position.Line && t.Position.Column < first.Position.Column {
			return last
		}
		last = t
	}
	return last
}

// hasComment reports whether a comment stands inside an element.
func (e *edit) hasComment(i int) bool {
	first := firstToken(e.list.Values[i])
	for t, last := first, e.lastToken(first); t != nil && t != last; t = t.Next {
		if t.Type == token.CommentType {
			return true
		}
	}
	return false
}

func (e *edit) replace(start, end int, with string) {
	if e.err != nil || start > end || end > len(e.text) {
		e.fail()
		return
	}
	e.text = slices.Concat(e.text[:start], []byte(with), e.text[end:])
}

func (e *edit) addFlow(b string) {
	if len(e.list.Values) == 0 {
		list := span{e.tokenSpan(e.list.Start).start, e.tokenSpan(e.list.End).end}
		e.replace(list.start, list.end, "["+b+"]")
		return
	}
	last := e.item(len(e.list.Values) - 1)
	e.replace(last.end, last.end, ", "+b)
}

// addBlock writes a line below the last element, indented like it.
func (e *edit) addBlock(b string) {
	last := e.item(len(e.list.Values) - 1)
	end := e.lineEnd(last.end)
	indent := strings.Repeat(" ", e.list.Start.Position.Column-1)
	e.replace(end, end, "\n"+indent+"- "+b)
}

func (e *edit) removeFlow(i int) {
	item := e.item(i)
	switch {
	case len(e.list.Values) == 1:
	case i+1 < len(e.list.Values):
		item.end = e.item(i + 1).start
	default:
		item.start = e.item(i - 1).end
	}
	if item.start > item.end || bytes.ContainsRune(e.text[item.start:item.end], '#') {
		e.fail() // a comment between the elements: whose is it?
	}
	e.replace(item.start, item.end, "")
}

// removeBlock removes the element's lines; an empty list stays a list.
func (e *edit) removeBlock(i int) {
	item := e.item(i)
	start, end := e.lineStart(item.start), e.lineEnd(item.end)
	if len(e.list.Values) == 1 {
		indent := strings.Repeat(" ", e.list.Start.Position.Column-1)
		e.replace(start, end, indent+"[]")
		return
	}
	if strings.TrimSpace(string(e.text[start:item.start])) != "-" {
		e.fail() // something else stands on the line
		return
	}
	e.replace(start, min(end+1, len(e.text)), "")
}

func (e *edit) lineStart(at int) int { return bytes.LastIndexByte(e.text[:at], '\n') + 1 }

func (e *edit) lineEnd(at int) int {
	end := bytes.IndexByte(e.text[at:], '\n')
	if end < 0 {
		return len(e.text)
	}
	return at + end
}

// finish reads the edited text and holds it against the original: the pool has
// the backends wanted, and nothing else differs.
func (e *edit) finish(want []Backend) ([]byte, error) {
	if e.err != nil {
		return nil, e.err
	}
	after, err := open("", e.text)
	if err != nil || !slices.Equal(after.backends(e.pool), want) || !sameBut(e.doc, after, "pools", e.pool, "backends") {
		e.fail()
		return nil, e.err
	}
	if e.crlf {
		return bytes.ReplaceAll(e.text, []byte("\n"), []byte("\r\n")), nil
	}
	return e.text, nil
}
