package node

import (
	"bytes"
	"os"
	"path/filepath"
	"time"

	"github.com/cirque-lb/lb"
)

// How a disk that refused a change is tried.
const (
	diskAgain = 5 * time.Second
	diskTrial = 64 << 10 // bytes that must fit
)

// diskState is what the loop knows of data_dir. Owned by run.
type diskState struct {
	err    error // why the last change or order could not be kept; nil: it was
	trying bool
	after  time.Time // try again not before
}

// unwritten has the status say that changes are refused, until one is kept or a
// trial says that it would be.
func (n *Node) unwritten(err error) {
	n.do(func() { n.disk.err, n.disk.after = err, n.o.Now().Add(diskAgain) })
}

// tickDisk tries, off the loop, whether a disk that refused a change takes it.
func (n *Node) tickDisk() {
	d := &n.disk
	if d.err == nil || d.trying || n.o.Now().Before(d.after) {
		return
	}
	d.trying = true
	n.group.Go(func() {
		err := n.o.State.writable()
		n.do(func() {
			d.trying, d.after = false, n.o.Now().Add(diskAgain)
			if d.err != nil && err == nil {
				n.event(lb.Event{Kind: "data_dir.mended", Subject: n.store.dir})
			}
			d.err = err
		})
	})
}

// writable tries to write to data_dir, and locks it if that was not possible at
// the start.
func (s *State) writable() error {
	if s.lock == nil {
		if err := s.lockDir(); err != nil {
			return err
		}
	}
	if s.unlocked != nil {
		return s.unlocked
	}
	return s.store.try()
}

// try writes where state is written, and takes it back.
func (s store) try() error {
	if err := os.MkdirAll(s.generations(), 0o700); err != nil {
		return err
	}
	for _, dir := range []string{s.dir, s.generations()} {
		path := filepath.Join(dir, "trial.new")
		err := writeSynced(path, bytes.Repeat([]byte{'.'}, diskTrial))
		os.Remove(path) // if it is there
		if err != nil {
			return err
		}
	}
	return nil
}
