package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/cirque-lb/lb"
)

// remembered is how many events the ring holds.
const remembered = 1024

// ring keeps the newest events. Readers never hold up a writer: who is too
// slow misses what was overwritten, and sees it by the numbers.
//
// A file beside the ring outlives the process: the next supervisor, after an
// upgrade or a crash, goes on with these events and their numbers. It gets a
// line for each event, and is written anew when it has twice what the ring
// holds. What cannot be written is remembered all the same.
type ring struct {
	mu     sync.Mutex // guards the fields below
	events [remembered]Numbered
	next   uint64        // number of the next event; the first is 1
	more   chan struct{} // closed by the next event

	path  string
	file  *os.File // nil: the events are not kept
	lines int      // of the file
	torn  bool     // its last line is not whole
}

// Numbered is an event with its place in the order of all.
type Numbered struct {
	Seq uint64 `json:"seq"`
	lb.Event
}

func (r *ring) add(e lb.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	r.events[r.next%remembered] = Numbered{r.next, e}
	r.write(r.events[r.next%remembered])
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// after lists the events after a number, oldest first, and a channel that is
// closed when there is another.
func (r *ring) after(seq uint64) ([]Numbered, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.since(seq)
	if r.more == nil {
		r.more = make(chan struct{})
	}
	return out, r.more
}

func (r *ring) since(seq uint64) (out []Numbered) {
	first := seq + 1
	if r.next >= remembered {
		first = max(first, r.next-remembered+1)
	}
	for i := max(first, 1); i <= r.next; i++ {
		if e := r.events[i%remembered]; e.Seq == i { // a damaged file has gaps
			out = append(out, e)
		}
	}
	return out
}

// keepIn goes on with the events of a file, and keeps them there.
func (r *ring) keepIn(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read the events of before: %w", err)
	}
	for line := range bytes.Lines(text) {
		var e Numbered
		if json.Unmarshal(line, &e) == nil && e.Seq > r.next {
			r.next = e.Seq
			r.events[e.Seq%remembered] = e
		}
	}
	r.path = path
	return r.rewrite()
}

// rewrite makes the file hold what the ring holds. While that fails events are
// not kept: the file must not grow without end.
func (r *ring) rewrite() error {
	r.drop()
	all := r.since(0)
	var text []byte
	for _, e := range all {
		text = append(text, line(e)...)
	}
	if err := renameio.WriteFile(r.path, text, 0o600); err != nil {
		return fmt.Errorf("keep the events: %w", err)
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("keep the events: %w", err)
	}
	r.file, r.lines, r.torn = f, len(all), false
	return nil
}

func line(e Numbered) []byte {
	text, err := json.Marshal(e)
	if err != nil {
		return nil // a time beyond year 9999
	}
	return append(text, '\n')
}

func (r *ring) write(e Numbered) {
	if r.file == nil {
		return
	}
	if r.lines >= 2*remembered {
		_ = r.rewrite() // it has e, or the file has ended
		return
	}
	text := line(e)
	if r.torn {
		text = append([]byte{'\n'}, text...)
	}
	_, err := r.file.Write(text)
	r.torn = err != nil
	r.lines++
}

// drop lets go of the file.
func (r *ring) drop() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}
