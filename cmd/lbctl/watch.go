package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// How often lbctl looks again.
const (
	watchEvery = time.Second
	waitEvery  = 250 * time.Millisecond
	quietFor   = 500 * time.Millisecond // before an answer that takes long is worth a line
)

// repeat runs f once, or with watch until interrupted; on a terminal each
// picture takes the place of the one before.
func (c *ctl) repeat(cmd *cobra.Command, watch bool, f func() error) error {
	if !watch {
		return f()
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		if c.terminal(c.out) {
			fmt.Fprint(c.out, "\x1b[H\x1b[2J")
		}
		if err := f(); err != nil {
			return untilInterrupted(cmd, err)
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-ticker.C:
		}
	}
}

// untilInterrupted is what ended a command that has no end of its own: whoever
// interrupts it has seen enough.
func untilInterrupted(cmd *cobra.Command, err error) error {
	if cmd.Context().Err() != nil {
		return nil
	}
	return err
}

// wait asks until done, saying how far it is. The error of a wait that takes
// too long is a timeout with what is left.
func (c *ctl) wait(cmd *cobra.Command, limit time.Duration, left func() (progress string, done bool, err error)) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ticker := time.NewTicker(waitEvery)
	defer ticker.Stop()
	line := c.progress()
	defer line.end()
	for {
		progress, done, err := left()
		if err != nil || done {
			return err
		}
		line.say(progress)
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-deadline.C:
			return timeout{fmt.Errorf("after %s: %s", limit, progress)}
		case <-ticker.C:
		}
	}
}

// during runs f, which asks the daemon for something that may take long, and
// says on a terminal that it is under way.
func (c *ctl) during(what string, f func() error) error {
	if !c.terminal(c.errs) {
		return f()
	}
	var saying sync.WaitGroup
	done := make(chan struct{})
	saying.Go(func() {
		quiet := time.NewTimer(quietFor)
		defer quiet.Stop()
		select {
		case <-done:
			return
		case <-quiet.C:
		}
		line := c.progress()
		defer line.end()
		ticker := time.NewTicker(waitEvery)
		defer ticker.Stop()
		for {
			line.say(what)
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	})
	defer saying.Wait()
	defer close(done)
	return f()
}

// progress is a line that says how far something is: on a terminal it takes its
// own place again and again, with the time it took; elsewhere each new text is a
// line.
type progress struct {
	c        *ctl
	began    time.Time
	terminal bool
	said     string
}

func (c *ctl) progress() *progress {
	return &progress{c: c, began: time.Now(), terminal: c.terminal(c.errs)}
}

func (p *progress) say(text string) {
	if p.terminal {
		fmt.Fprintf(p.c.errs, "\r\x1b[K%s (%s)", text, span(time.Since(p.began)))
		p.said = text
		return
	}
	if text != p.said {
		p.c.say("%s", text)
		p.said = text
	}
}

// end clears the line for what comes.
func (p *progress) end() {
	if p.terminal && p.said != "" {
		fmt.Fprint(p.c.errs, "\r\x1b[K")
	}
}

// fileOf is the file that is read or written; nil: it is none.
func fileOf(w any) *os.File {
	if s, ok := w.(*sink); ok {
		w = s.Writer
	}
	f, _ := w.(*os.File)
	return f
}

func (c *ctl) terminal(w any) bool {
	f := fileOf(w)
	if f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
