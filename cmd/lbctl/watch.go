package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// How often lbctl looks again.
const (
	watchEvery = time.Second
	waitEvery  = 250 * time.Millisecond
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
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-ticker.C:
		}
	}
}

// wait asks until done, saying each new progress line. The error of a wait
// that takes too long is a timeout with what is left.
func (c *ctl) wait(cmd *cobra.Command, limit time.Duration, left func() (progress string, done bool, err error)) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ticker := time.NewTicker(waitEvery)
	defer ticker.Stop()
	said := ""
	for {
		progress, done, err := left()
		if err != nil || done {
			return err
		}
		if progress != said {
			c.say("%s", progress)
			said = progress
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-deadline.C:
			return timeout{fmt.Errorf("after %s: %s", limit, progress)}
		case <-ticker.C:
		}
	}
}

func (c *ctl) terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
