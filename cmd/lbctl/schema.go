package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// ownOutputs are what lbctl itself makes, by name; the rest is the API's.
var ownOutputs = map[string]any{
	"findings": []finding{}, "version": versions{}, "key": clusterKey{}, "key-order": keyOrdered{},
	"backend-order": admin.BackendOrder{}, "node-order": admin.NodeOrder{}, "leave-order": admin.LeaveOrder{}, "listener-order": admin.ListenerOrder{}, "worker-order": admin.WorkerOrder{}, "upgrade-order": admin.UpgradeOrder{},
}

func (c *ctl) schema() *cobra.Command {
	names := append(admin.OutputNames(), "openapi")
	for name := range ownOutputs {
		names = append(names, name)
	}
	slices.Sort(names)
	return &cobra.Command{
		Use: "schema [NAME]", Short: "The JSON Schema of what -o json prints, or the daemon's OpenAPI description", Args: cobra.MaximumNArgs(1),
		Long: `Print the JSON Schema (2020-12) of what commands print with -o json: of all, each
under a name, or of one. Within a version of the API fields are only added.
openapi is the description of the admin API, asked of the daemon.`,
		ValidArgsFunction: cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if name == "openapi" {
				ctx, cancel := ask(cmd)
				defer cancel()
				d, err := c.client().OpenAPI(ctx)
				if err != nil {
					return err
				}
				return writeJSON(c.out, d)
			}
			text, ok := admin.Schema(name, ownOutputs)
			if !ok {
				return usage{fmt.Errorf("there is no schema of %q; there are %s", name, someOf(names))}
			}
			_, err := c.out.Write(text)
			return err
		},
	}
}
