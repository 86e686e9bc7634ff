package node

import "fmt"

// Kind says what a caller can do about an Error.
type Kind int

// The kinds of errors.
const (
	Internal    Kind = iota // a fault of ours
	OwnedByFile             // the objects are the file's
	NotFound                // no such backend, pool, node or generation
	Conflict                // the edit began with another generation
	OtherNode               // only the node itself can do it
	Busy                    // too many changes wait
	Unwritable              // state could not be written
	Refused                 // the document or a file it names is not right
	Unbuilt                 // the workers could not build or bind it
	NotReady                // the new crew did not become ready
	Invalid                 // the request is not understood
)

// Error is why a request was not carried out: a sentence, and the next thing
// to do about it.
type Error struct {
	Kind Kind
	Text string
	Hint string
	Err  error // the cause; its text is part of Text
	// Workers is what each worker answered, when they refused.
	Workers []Built
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func fail(k Kind, hint, format string, args ...any) *Error {
	return &Error{Kind: k, Hint: hint, Text: fmt.Sprintf(format, args...)}
}

// because is fail with a cause, whose text follows the sentence.
func because(err error, k Kind, hint, format string, args ...any) *Error {
	return &Error{Kind: k, Hint: hint, Text: fmt.Sprintf(format, args...) + ": " + err.Error(), Err: err}
}
