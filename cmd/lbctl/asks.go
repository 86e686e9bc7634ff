package main

import (
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

// matching gives a change the flag --if-match.
func matching(cmd *cobra.Command, a *admin.Ask) *cobra.Command {
	cmd.Flags().StringVar(&a.Match, "if-match", "", "refuse unless this generation runs")
	return cmd
}

// dryly gives a change of the configuration the flags that all have.
func dryly(cmd *cobra.Command, a *admin.Ask) *cobra.Command {
	cmd.Flags().BoolVar(&a.DryRun, "dry-run", false, "validate and show what would change, no more")
	return matching(cmd, a)
}

// trying gives a change of the document the flag --confirm, too.
func trying(cmd *cobra.Command, a *admin.Ask) *cobra.Command {
	cmd.Flags().DurationVar(&a.Confirm, "confirm", 0, "take it back unless `lbctl config confirm` comes within this time, such as 60s")
	return dryly(cmd, a)
}
