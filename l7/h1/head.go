package h1

// headState is how far Parse has come in a head that is not whole.
type headState struct {
	line int // where the current line begins
}
