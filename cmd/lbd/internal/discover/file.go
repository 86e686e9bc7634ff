package discover

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cirque-lb/lb"
)

// How a file is read.
const (
	fileEvery  = time.Second
	fileSettle = 200 * time.Millisecond
	maxFile    = 4 << 20
)

// file is a source that reads a list of backends. It compares contents: a file
// may be written in place, renamed over, or be a link that is turned. One that
// still changes between two looks is being written and waits.
type file struct {
	path string

	text    []byte // what answer was read from
	pending []byte // what was seen last, when that differs; else nil
	answer  Answer
	known   bool // text and answer hold something
}

// Find looks at the file.
func (f *file) Find(context.Context) (Answer, error) {
	text, err := readBounded(f.path, maxFile)
	switch {
	case err != nil:
		return Answer{}, err
	case f.known && bytes.Equal(text, f.text):
		f.pending = nil
		return f.answer, nil
	case f.known && (f.pending == nil || !bytes.Equal(text, f.pending)):
		f.pending = text
		return Answer{f.answer.Backends, fileSettle}, nil
	}
	found, err := lb.ParseBackends(f.path, text)
	if err != nil {
		return Answer{}, err
	}
	f.text, f.pending, f.answer, f.known = text, nil, Answer{found, fileEvery}, true
	return f.answer, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}
