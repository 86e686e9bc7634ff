package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// The exit codes: a contract with scripts.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitRefused     = 3 // the configuration is refused
	exitTimeout     = 4 // waiting took too long
	exitConflict    = 5 // not found, or in conflict with what is
	exitMissing     = 6 // a privilege or a kernel feature is missing
	exitUnreachable = 7
	exitDegraded    = 8
)

// usage is a command line that is not understood.
type usage struct{ error }

// timeout is a wait that took too long.
type timeout struct{ error }

// degraded is a status that an operator can mend; it was printed already.
type degraded struct{}

func (degraded) Error() string { return "degraded" }

// missing is a doctor's finding of a privilege or feature that is not there.
type missing struct{ error }

// explainFailure writes an error of a command and the next thing to do, and gives
// its exit code.
func (c *ctl) explainFailure(cmd *cobra.Command, err error) int {
	var (
		refused     *admin.Error
		unreachable *admin.Unreachable
		misused     usage
		late        timeout
		absent      missing
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &degraded{}):
		return exitDegraded
	case errors.As(err, &misused):
		c.say("lbctl: %v", err)
		if cmd.HasSubCommands() {
			c.say("  %s --help says what there is", cmd.CommandPath())
		} else {
			c.say("  %s; --help says more", cmd.UseLine())
		}
		return exitUsage
	case errors.As(err, &late):
		c.say("lbctl: %v", err)
		return exitTimeout
	case errors.As(err, &absent):
		c.say("lbctl: %v", err)
		return exitMissing
	case errors.As(err, &refused):
		return c.explainRefusal(refused)
	case errors.Is(err, context.Canceled):
		c.say("lbctl: interrupted")
		return exitError
	case errors.As(err, &unreachable):
		return c.explainUnreachable(unreachable)
	}
	c.say("lbctl: %v", err)
	return exitError
}

func (c *ctl) explainRefusal(e *admin.Error) int {
	if len(e.Errors) > 0 {
		c.say("%s", e.Detail) // places and carets stand for themselves
	} else {
		c.say("lbctl: %v", e)
	}
	if len(e.Workers) > 1 {
		c.showBuilt(c.errs, e.Workers)
	}
	if e.Hint != "" {
		c.say("  %s", e.Hint)
	}
	switch e.Code {
	case admin.CodeRefused, admin.CodeWorkers:
		return exitRefused
	case admin.CodeOwnedByFile, admin.CodeNotFound, admin.CodeConflict, admin.CodeOtherNode:
		return exitConflict
	case admin.CodeMissing:
		return exitMissing
	case admin.CodeRequest:
		return exitUsage
	}
	return exitError
}

func (c *ctl) explainUnreachable(u *admin.Unreachable) int {
	c.say("lbctl: %v", u)
	switch {
	case errors.Is(u, fs.ErrPermission):
		c.say("  run it as root, or join the group %s", admin.Group)
		return exitMissing
	case errors.Is(u, fs.ErrNotExist):
		c.say("  start lbd, or name its admin.socket: --addr PATH or LBCTL_ADDR")
	case errors.Is(u, syscall.ECONNREFUSED):
		c.say("  the socket is there and nobody serves it: start lbd")
	case errors.Is(u, context.DeadlineExceeded), errors.Is(u, os.ErrDeadlineExceeded):
		c.say("  lbd does not answer; its log says more")
	}
	return exitUnreachable
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
