package lb

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/scanner"
	"github.com/goccy/go-yaml/token"
)

// What a document may hold at most.
const (
	maxDocument = 16 << 20
	maxTokens   = 1 << 20 // the parser takes half a kilobyte for each, and stack for each key
	maxKeys     = 10_000  // of one mapping: its time grows with the square
	maxDepth    = 64
	maxExpanded = 100_000 // values read through aliases
)

// document is a parsed text with what is needed to point into it.
type document struct {
	file    string
	lines   []string
	root    ast.Node // nil: the document is empty
	anchors map[*ast.AliasNode]ast.Node
	uses    *uses // of the copy that a filter's settings are read through
}

// open reads the text as YAML. A document that is not whole gives one error.
func open(file string, text []byte) (*document, *Error) {
	d := &document{file: file}
	if len(text) > maxDocument {
		return d, &Error{Code: CodeTooLarge, File: file,
			Message: fmt.Sprintf("the document has %d bytes; at most %d are read", len(text), maxDocument)}
	}
	source := strings.ReplaceAll(strings.TrimPrefix(string(text), "\ufeff"), "\r\n", "\n")
	d.lines = strings.Split(source, "\n")
	if line, column, ok := validText(d.lines); !ok {
		return d, d.errorAt(line, column, 1, CodeSyntax, "this is not UTF-8 text", "")
	}
	if at := strings.IndexByte(source, '\r'); at >= 0 {
		line := strings.Count(source[:at], "\n") + 1
		return d, d.errorAt(line, 1, 1, CodeSyntax, "a carriage return stands alone in this line", "end lines with a line feed")
	}
	tokens, err := d.scan(source)
	if err != nil {
		return d, err
	}
	tree, problem := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if problem != nil {
		return d, d.syntaxError(problem)
	}
	return d, d.setRoot(tree)
}

func (d *document) setRoot(tree *ast.File) *Error {
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if doc.Body.Type() == ast.DirectiveType {
			return d.errorNode(doc.Body, CodeYAML, "YAML directives are not supported", "remove the line")
		}
		if d.root != nil {
			return d.errorNode(doc.Body, CodeDocuments, "a second YAML document begins here; one file holds one", "remove the --- line")
		}
		d.root = doc.Body
	}
	if d.root == nil {
		return nil
	}
	return d.resolve()
}

// validText finds the first character that is not UTF-8.
func validText(lines []string) (line, column int, ok bool) {
	for i, l := range lines {
		if utf8.ValidString(l) {
			continue
		}
		column := 1
		for len(l) > 0 {
			r, n := utf8.DecodeRuneInString(l)
			if r == utf8.RuneError && n == 1 {
				return i + 1, column, false
			}
			l, column = l[n:], column+1
		}
	}
	return 0, 0, true
}

// scan cuts the text into tokens and bounds how many there are and how deep
// they nest, before the parser recurses into them.
func (d *document) scan(source string) (token.Tokens, *Error) {
	var tokens token.Tokens
	var nested nesting
	var s scanner.Scanner
	s.Init(source)
	for {
		some, err := s.Scan()
		if err == io.EOF {
			return tokens, nil
		}
		for _, t := range some {
			if nested.tooDeep(t) {
				return nil, d.errorToken(t, CodeTooDeep, fmt.Sprintf("values nest deeper than %d levels", maxDepth), "")
			}
			if nested.keys > maxKeys {
				return nil, d.errorToken(t, CodeTooLarge, fmt.Sprintf("a mapping has more than %d keys", maxKeys), "")
			}
		}
		tokens.Add(some...)
		if len(tokens) > maxTokens {
			return nil, d.errorToken(tokens[maxTokens], CodeTooLarge, fmt.Sprintf("the document has more than %d words and marks", maxTokens), "")
		}
	}
}

// nesting counts what is open where a token stands.
type nesting struct {
	flow, dashes, line int

	blocks []block // mappings without braces, outermost first
	keys   int     // of the innermost
	last   *token.Token
}

// block is a mapping by the column of its keys.
type block struct{ column, keys int }

func (n *nesting) tooDeep(t *token.Token) bool {
	if t.Position.Line != n.line {
		n.dashes, n.line = 0, t.Position.Line
	}
	switch t.Type {
	case token.MappingStartType, token.SequenceStartType:
		n.flow++
	case token.MappingEndType, token.SequenceEndType:
		n.flow--
	case token.SequenceEntryType: // - - - nests on one line
		n.dashes++
		n.leave(t.Position.Column)
	case token.MappingValueType:
		n.key(n.last)
	}
	n.last = t
	return n.flow > maxDepth || n.dashes > maxDepth || len(n.blocks) > maxDepth
}

// leave ends the mappings right of a column.
func (n *nesting) leave(column int) {
	for len(n.blocks) > 0 && n.blocks[len(n.blocks)-1].column > column {
		n.blocks = n.blocks[:len(n.blocks)-1]
	}
}

// key counts a key of a mapping without braces.
func (n *nesting) key(t *token.Token) {
	if t == nil || n.flow > 0 {
		return
	}
	n.leave(t.Position.Column)
	if len(n.blocks) == 0 || n.blocks[len(n.blocks)-1].column < t.Position.Column {
		n.blocks = append(n.blocks, block{column: t.Position.Column})
	}
	inner := &n.blocks[len(n.blocks)-1]
	inner.keys++
	n.keys = inner.keys
}

// syntaxError gives the parser's error our form.
func (d *document) syntaxError(err error) *Error {
	e, ok := err.(interface {
		GetToken() *token.Token
		GetMessage() string
	})
	if !ok || e.GetToken() == nil {
		return &Error{Code: CodeSyntax, File: d.file, Message: err.Error()}
	}
	return d.errorToken(e.GetToken(), CodeSyntax, e.GetMessage(), syntaxHint(e.GetMessage()))
}

// syntaxHint says what usually is behind a parser's message.
func syntaxHint(message string) string {
	switch {
	case strings.Contains(message, "tab character"), strings.Contains(message, "'\t'"):
		return "indent with spaces, not tabs"
	case strings.Contains(message, "mapping value is not allowed"):
		return "quote a value that holds a colon and a space"
	case strings.Contains(message, "reserved character"):
		return "quote the value"
	case strings.Contains(message, "value is not allowed in this context"):
		return "look at the indentation"
	}
	return ""
}

// resolve finds the value of every alias: the nearest anchor of its name
// before it, as YAML says.
func (d *document) resolve() *Error {
	r := resolver{doc: d, named: map[string]ast.Node{}}
	d.anchors = map[*ast.AliasNode]ast.Node{}
	ast.Walk(&r, d.root)
	if r.err != nil || len(d.anchors) == 0 {
		return r.err
	}
	return d.checkExpansion()
}

type resolver struct {
	doc   *document
	named map[string]ast.Node
	err   *Error
}

func (r *resolver) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.AnchorNode:
		ast.Walk(r, n.Value)
		r.named[n.Name.GetToken().Value] = n.Value // after its value: an alias cannot hold itself
		return nil
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		value := r.named[name]
		if value == nil && r.err == nil {
			r.err = r.doc.errorNode(n, CodeAlias, fmt.Sprintf("no anchor %q stands before this alias", name), nearest(name, keys(r.named)))
		}
		r.doc.anchors[n] = value
		return nil
	}
	return r
}

// checkExpansion bounds how many values the aliases stand for, before anybody
// walks them.
func (d *document) checkExpansion() *Error {
	e := expansion{doc: d, known: map[ast.Node]int{}}
	if _, expanded := e.count(d.root); expanded <= maxExpanded {
		return nil
	}
	return d.errorNode(e.largest, CodeTooDeep, fmt.Sprintf("aliases stand for more than %d values", maxExpanded), "")
}

// expansion counts values: those that stand in the text, and those that
// aliases repeat.
type expansion struct {
	doc       *document
	known     map[ast.Node]int // what an alias stands for -> its values
	largest   ast.Node         // the alias that stands for the most
	largestOf int
}

func (e *expansion) count(n ast.Node) (plain, expanded int) {
	var inside []ast.Node
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, m := range n.Values {
			inside = append(inside, m.Value)
		}
	case *ast.SequenceNode:
		inside = n.Values
	case *ast.AnchorNode:
		return e.count(n.Value)
	case *ast.TagNode:
		return e.count(n.Value)
	case *ast.AliasNode:
		return 0, e.alias(n)
	}
	plain = 1
	for _, c := range inside {
		p, x := e.count(c)
		plain, expanded = plain+p, min(expanded+x, 2*maxExpanded)
	}
	return plain, expanded
}

func (e *expansion) alias(n *ast.AliasNode) int {
	target := e.doc.anchors[n]
	if _, ok := e.known[target]; !ok {
		plain, expanded := e.count(target)
		e.known[target] = plain + expanded
	}
	if size := e.known[target]; size > e.largestOf {
		e.largest, e.largestOf = n, size
	}
	return e.known[target]
}

// errorNode points at a node.
func (d *document) errorNode(n ast.Node, code, message, hint string) *Error {
	if n == nil {
		return &Error{Code: code, File: d.file, Message: message, Hint: hint}
	}
	return d.errorToken(firstToken(n), code, message, hint)
}

func (d *document) errorToken(t *token.Token, code, message, hint string) *Error {
	width := 1
	if v := strings.TrimSpace(t.Origin); t.Type != token.ImplicitNullType && v != "" && !strings.Contains(v, "\n") {
		width = utf8.RuneCountInString(v)
	}
	return d.errorAt(t.Position.Line, t.Position.Column, width, code, message, hint)
}

func (d *document) errorAt(line, column, width int, code, message, hint string) *Error {
	e := &Error{Code: code, File: d.file, Line: line, Column: column, Width: width, Message: message, Hint: hint}
	if line >= 1 && line <= len(d.lines) {
		e.excerpt(d.lines[line-1])
	}
	return e
}

// firstToken is where a node begins; a mapping's own token is its first colon.
func firstToken(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return firstToken(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return firstToken(n.Key)
	case *ast.SequenceNode:
		if n.Start == nil && len(n.Values) > 0 {
			return firstToken(n.Values[0])
		}
	case *ast.LiteralNode:
		return n.Start
	}
	return n.GetToken()
}
