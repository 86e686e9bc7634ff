package h2

import "sync"

// chunk is a piece of a queue.
type chunk struct {
	next       *chunk
	start, end int
	data       [8192]byte
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// queue is a FIFO of bytes in pooled chunks. The zero value is empty.
type queue struct {
	head, tail *chunk
	size       int
}

func (q *queue) write(p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		if q.tail == nil || q.tail.end == len(q.tail.data) {
			q.grow()
		}
		n := copy(q.tail.data[q.tail.end:], p)
		q.tail.end += n
		p = p[n:]
	}
}

func (q *queue) grow() {
	c := chunks.Get().(*chunk)
	c.next, c.start, c.end = nil, 0, 0
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
}

// appendTo moves n bytes, of which there are as many, to b.
func (q *queue) appendTo(b []byte, n int) []byte {
	q.size -= n
	for n > 0 {
		c := q.head
		m := min(n, c.end-c.start)
		b = append(b, c.data[c.start:c.start+m]...)
		c.start += m
		n -= m
		if c.start == c.end {
			q.pop()
		}
	}
	return b
}

func (q *queue) pop() {
	c := q.head
	q.head = c.next
	if q.head == nil {
		q.tail = nil
	}
	chunks.Put(c)
}

func (q *queue) clear() {
	for q.head != nil {
		q.pop()
	}
	q.size = 0
}

// An idle connection keeps no buffer: the output's and the incomplete frame's
// come from this pool and go back when empty.
const bufferSize = 32 << 10

type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, bufferSize)} }}

func takeBuffer() *buffer { return buffers.Get().(*buffer) }

func (b *buffer) release() {
	if cap(b.b) > 4*bufferSize {
		return // grown by a burst; the collector may have it
	}
	b.b = b.b[:0]
	buffers.Put(b)
}
