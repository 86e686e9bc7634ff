package lb

// document is a parsed text with what is needed to point into it.
type document struct {
	file string
	text []byte
}

// Options says what Parse cannot know by itself.
type Options struct {
	File string // the name that errors show; "" shows none
	// Filters checks the configuration of each filter that exists; a name that
	// is not here is an error. Nil: any name passes unchecked.
	Filters map[string]func(Node) error
}
