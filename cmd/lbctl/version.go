package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

// versions are those of lbctl and of the daemon it reaches, if it does.
type versions struct {
	Lbctl admin.Version  `json:"lbctl"`
	Lbd   *admin.Version `json:"lbd,omitempty"`
}

func (c *ctl) version() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "What runs here and there", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			both := versions{Lbctl: admin.Version{Version: version, Go: runtime.Version(), API: 1}}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			there := "not reached"
			if v, err := c.client().Version(ctx); err == nil {
				both.Lbd = &v
				there = fmt.Sprintf("%s (%s)", v.Version, v.Go)
			}
			return c.verdict(both, version, "lbctl %s (%s)\nlbd   %s", version, runtime.Version(), there)
		}}
}
