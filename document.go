package lb

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a document may hold at most.
const (
	maxDocument = 16 << 20
	maxDepth    = 64
	maxExpanded = 100_000 // values read through aliases
)

// document is a parsed text with what is needed to point into it.
type document struct {
	file    string
	lines   []string
	root    ast.Node // nil: the document is empty
	anchors map[*ast.AliasNode]ast.Node
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
	tokens := lexer.Tokenize(source)
	if err := d.checkDepth(tokens); err != nil {
		return d, err
	}
	tree, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return d, d.syntaxError(err)
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

// checkDepth bounds nesting before the parser recurses into it.
func (d *document) checkDepth(tokens token.Tokens) *Error {
	flow, dashes, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			dashes, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType: // - - - nests on one line
			dashes++
		}
		if flow > maxDepth || dashes > maxDepth || t.Position.IndentNum > 16*maxDepth {
			return d.errorToken(t, CodeTooDeep, fmt.Sprintf("values nest deeper than %d levels", maxDepth), "")
		}
	}
	return nil
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
		e.Excerpt = d.lines[line-1]
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
