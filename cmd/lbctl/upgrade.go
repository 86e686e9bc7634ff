package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) upgrade() *cobra.Command {
	var o admin.UpgradeOrder
	var a admin.Ask
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Replace the workers by those of a new binary; no connection is dropped", Args: cobra.NoArgs,
		Long: `Start a new crew of workers, hand it the listeners and let the old crew drain.
When the new crew is not ready in time the old one serves on and this says why.`,
	}
	cmd.Flags().StringVar(&o.Binary, "binary", "", "the new lbd (default: the path the daemon was started from)")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the old crew is gone; exit 4 when that takes too long")
	cmd.Flags().DurationVar(&limit, "timeout", 2*time.Minute, "how long to wait")
	cmd.MarkFlagFilename("binary")
	matching(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Binary != "" {
			path, err := filepath.Abs(o.Binary)
			if err != nil {
				return err
			}
			o.Binary = path
		}
		ctx, cancel := ask(cmd)
		defer cancel()
		err := c.during("the new workers start", func() error { return c.client().Upgrade(ctx, o, a) })
		if err != nil {
			return err
		}
		if !wait {
			return c.verdict(o, o.Binary, "the new workers serve; the old ones drain")
		}
		if err := c.awaitCrew(cmd, limit); err != nil {
			return err
		}
		return c.verdict(o, o.Binary, "the new workers serve; the old ones are gone")
	}
	return cmd
}

func (c *ctl) awaitCrew(cmd *cobra.Command, limit time.Duration) error {
	err := c.wait(cmd, limit, func() (string, bool, error) {
		ctx, cancel := ask(cmd)
		defer cancel()
		s, err := c.client().Status(ctx)
		old := 0 // whom a supervisor that starts does not know yet
		for _, w := range s.Workers {
			if w.State == "draining" {
				old++
			}
		}
		return fmt.Sprintf("%s of the old crew drain", plural(old, "worker")), s.State != "starting" && old == 0, err
	})
	if late := (timeout{}); errors.As(err, &late) {
		return timeout{fmt.Errorf("%w; the new crew serves, drain.timeout ends the old one", late.error)}
	}
	return err
}

func workerTable(all []admin.Worker) *table {
	t := &table{narrow: 6, heads: []string{"WORKER", "PID", "STATE", "SLOTS", "CONNECTIONS", "GENERATION", "VERSION", "SINCE", "RESTARTS", "DETAIL"}}
	for _, w := range all {
		t.add(w.Name, w.Name, w.PID, w.State, w.Slots, w.Connections, w.Generation, w.Version, age(w.Since), w.Restarts, w.Detail)
	}
	return t
}
