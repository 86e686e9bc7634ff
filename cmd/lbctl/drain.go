package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// drainable is something of the addressed node that an operator can drain.
type drainable struct {
	arg                  string // what it is called by
	drain, long, undrain string // what the commands do
	end, again           string // what became of it
	complete             func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

	order func(ctx context.Context, name string, drain bool, a admin.Ask) (any, error)
	left  func(s admin.Status, name string) (connections int, over bool)
}

func (c *ctl) drain(noun string, d drainable) *cobra.Command {
	var a admin.Ask
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{Use: "drain " + d.arg, Short: d.drain, Long: d.long, Args: cobra.ExactArgs(1), ValidArgsFunction: d.complete}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when it "+d.end+"; exit 4 when that takes too long")
	cmd.Flags().DurationVar(&limit, "timeout", 2*time.Minute, "how long to wait")
	matching(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		ctx, cancel := ask(cmd)
		defer cancel()
		o, err := d.order(ctx, name, true, a)
		if err != nil {
			return err
		}
		if !wait {
			return c.verdict(o, name, "%s drains; lbctl %s list shows how far it is", name, noun)
		}
		if err := c.awaitDrained(cmd, noun, name, d, limit); err != nil {
			return err
		}
		return c.verdict(o, name, "%s %s", name, d.end)
	}
	return cmd
}

func (c *ctl) undrain(d drainable) *cobra.Command {
	var a admin.Ask
	return matching(&cobra.Command{Use: "undrain " + d.arg, Short: d.undrain, Args: cobra.ExactArgs(1), ValidArgsFunction: d.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			o, err := d.order(ctx, args[0], false, a)
			if err != nil {
				return err
			}
			return c.verdict(o, args[0], "%s %s", args[0], d.again)
		}}, &a)
}

func (c *ctl) awaitDrained(cmd *cobra.Command, noun, name string, d drainable, limit time.Duration) error {
	err := c.wait(cmd, limit, func() (string, bool, error) {
		ctx, cancel := ask(cmd)
		defer cancel()
		s, err := c.client().Status(ctx)
		left, over := d.left(s, name)
		return fmt.Sprintf("%s: %s open", name, plural(left, "connection")), over && err == nil, err
	})
	if late := (timeout{}); errors.As(err, &late) {
		return timeout{fmt.Errorf("%w; it goes on draining: `lbctl %s undrain %s` takes it back", late.error, noun, name)}
	}
	return err
}
