// Package app is lbd, the load balancer's daemon: a supervisor that owns sockets,
// state and the datapath, and the workers it starts, which serve requests.
//
// It is a package so that a program outside can be an lbd with filters of its
// own: call Main. Start at newRun for what is wired to what, then package node.
package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/manual"
	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
	"github.com/cirque-lb/lb/l7"
)

// What Main was called with; written before anything reads it.
var (
	version string
	filters map[string]l7.Builder
)

// The exit codes that lbd uses; lbctl has more.
const (
	exitError    = 1
	exitUsage    = 2
	exitConfig   = 3 // the configuration is refused
	exitConflict = 5 // another lbd is in the way
	exitMissing  = 6 // a privilege or a kernel feature is missing
)

// coded is an error with the exit code it shall have.
type coded struct {
	code int
	error
}

func (c coded) Unwrap() error { return c.error }

// Main is lbd: it reads the command line and ends the process. binary is the
// version it says it is, "" for the revision it was built from; offered are the
// filters that configurations may use.
func Main(binary string, offered map[string]l7.Builder) {
	version, filters = binary, offered
	root := newRoot()
	manual.Completion(root)
	if err := root.Execute(); err != nil {
		text, code := explain(err)
		fmt.Fprintln(os.Stderr, text)
		os.Exit(code)
	}
}

// explain renders an error for the user and finds its exit code.
func explain(err error) (string, int) {
	var es lb.Errors
	var c coded
	var locked *worker.LockedError
	switch {
	case errors.As(err, &es):
		return es.Error() + "\n" + plural(len(es), "error") + ".", exitConfig
	case errors.As(err, &c):
		return "lbd: " + err.Error(), c.code
	case errors.As(err, &locked):
		return "lbd: " + err.Error(), exitConflict
	case errors.Is(err, fs.ErrPermission):
		return "lbd: " + err.Error(), exitMissing
	}
	return "lbd: " + err.Error(), exitError
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "lbd",
		Short:         "An L4/L7 load balancer for bare-metal Linux edge hosts",
		SilenceErrors: true,
		SilenceUsage:  true,
		// Any other word is a mistake, not an argument.
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return coded{exitUsage, fmt.Errorf("%w\nsee %s --help", err, c.CommandPath())}
	})
	root.AddCommand(newRun(), newValidate(), newDetach(), newAgent(), newVersion(), newWorker(), newTrial(), newGuard())
	return root
}

// usage gives errors about arguments their exit code.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return coded{exitUsage, fmt.Errorf("%w\nsee %s --help", err, c.CommandPath())}
		}
		return nil
	}
}

// configFlag is -c, which every command that reads the file has.
func configFlag(c *cobra.Command) *string {
	return c.Flags().StringP("config", "c", "/etc/lbd/lbd.yaml", "the configuration `file`")
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "lbd", thisVersion())
			return err
		},
	}
}

// thisVersion is what the linker says, or else the revision it was built from.
func thisVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return s.Value[:12]
			}
		}
	}
	return "dev"
}

// newGuard is the command that watches over an upgrade of the supervisor.
func newGuard() *cobra.Command {
	return &cobra.Command{
		Use: "guard", Hidden: true, DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) { os.Exit(guard(args)) },
	}
}
