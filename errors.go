package lb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is one thing wrong with a document, with its place. Line and Column
// count from 1, in characters; 0 means the place is the whole document.
type Error struct {
	Code    string `json:"code"` // LBnnnn, a contract; see Codes
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Width   int    `json:"width,omitempty"` // characters that the caret underlines
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`    // what to do about it, or the nearest name
	Excerpt string `json:"excerpt,omitempty"` // the line as it stands in the document; of a long one what is about the place

	before int // characters of the line before Excerpt
}

// Error renders the error as users see it: place, code and message, then the
// line with a caret below it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.place())
	b.WriteString(e.Code)
	b.WriteByte(' ')
	b.WriteString(e.Message)
	switch {
	case e.Excerpt != "":
		e.renderExcerpt(&b)
	case e.Hint != "":
		b.WriteString("\n     | ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// place is "file:line:column: ", without what is not known.
func (e *Error) place() string {
	switch {
	case e.Line > 0 && e.File != "":
		return fmt.Sprintf("%s:%d:%d: ", e.File, e.Line, e.Column)
	case e.Line > 0:
		return fmt.Sprintf("%d:%d: ", e.Line, e.Column)
	case e.File != "":
		return e.File + ": "
	}
	return ""
}

// excerptWidth is how much of a long line is shown.
const excerptWidth = 100

// maxExcerpt bounds how much of a line an error holds: a document in JSON is one
// line, and has a thousand errors.
const maxExcerpt = 1 << 10

// excerpt keeps the line, or what of it is about the place.
func (e *Error) excerpt(line string) {
	e.Excerpt = line
	if len(line) <= maxExcerpt {
		return
	}
	from, skip := 0, max(0, e.Column-1-excerptWidth)
	for at := range line {
		if from = at; e.before == skip {
			break
		}
		e.before++
	}
	e.Excerpt = strings.ToValidUTF8(line[from:min(len(line), from+maxExcerpt)], "")
}

func (e *Error) renderExcerpt(b *strings.Builder) {
	line := []rune(e.Excerpt)
	column := min(max(e.Column-1-e.before, 0), len(line))
	from := 0
	if len(line) > excerptWidth && column > excerptWidth/2 {
		from = min(column-excerptWidth/2, len(line)-excerptWidth)
	}
	shown := line[from:min(len(line), from+excerptWidth)]
	column -= from
	width := max(1, min(e.Width, len(shown)-column))

	fmt.Fprintf(b, "\n%4d | %s\n     | ", e.Line, printable(shown))
	b.WriteString(strings.Repeat(" ", column))
	b.WriteString(strings.Repeat("^", width))
	if e.Hint != "" {
		b.WriteByte(' ')
		b.WriteString(e.Hint)
	}
}

// printable replaces what would move the caret or drive a terminal.
func printable(line []rune) string {
	out := make([]rune, len(line))
	for i, r := range line {
		switch {
		case r == '\t':
			r = ' '
		case r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == utf8.RuneError:
			r = '·'
		}
		out[i] = r
	}
	return string(out)
}

// Errors are all errors of a document, in the order of their places.
type Errors []*Error

// maxShown bounds what Error prints; the slice holds them all.
const maxShown = 50

func (es Errors) Error() string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == maxShown {
			fmt.Fprintf(&b, "and %d more", len(es)-maxShown)
			break
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap lets errors.As find each error.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// sorted orders the errors by place, says each once and gives an error value:
// nil when there are none.
func (es Errors) sorted() error {
	if len(es) == 0 {
		return nil
	}
	slices.SortFunc(es, func(a, b *Error) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, a.Column-b.Column,
			strings.Compare(a.Code, b.Code), strings.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(es, func(a, b *Error) bool { return *a == *b })
}
