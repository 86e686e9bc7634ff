package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
)

// noise is what bodies are cut from.
var noise = func() []byte {
	b := make([]byte, 64<<10)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(b)
	return append(b, b...)
}()

// pattern is the body that belongs to a number: no two are alike.
type pattern struct {
	id   uint64
	size int
	at   int // what was read so far
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.at >= p.size {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size-p.at)], p.rest())
	p.at += n
	return n, nil
}

// rest is what comes at p.at, at least one byte.
func (p *pattern) rest() []byte {
	name := fmt.Appendf(nil, "[%d,%d]", p.id, p.size)
	if p.at < len(name) {
		return name[p.at:]
	}
	half := uint64(len(noise) / 2)
	from := (p.id*7919 + uint64(p.at)) % half
	return noise[from : from+half]
}

// check reads to the end of r, which must be the pattern. An error of r is
// returned as it is, another content as errWrong.
func (p *pattern) check(r io.Reader, b []byte) error {
	want := make([]byte, len(b))
	for {
		n, err := r.Read(b)
		if m, _ := io.ReadFull(p, want[:n]); m < n || !bytes.Equal(b[:n], want[:n]) {
			return fmt.Errorf("%w: byte %d or so of the body of %d", errWrong, p.at, p.id)
		}
		switch {
		case err == io.EOF && p.at < p.size:
			return fmt.Errorf("%w: %d bytes of %d look like the whole body of %d", errWrong, p.at, p.size, p.id)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
