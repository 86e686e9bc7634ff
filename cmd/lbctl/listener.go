package main

import (
	"fmt"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) listener() *cobra.Command {
	return noun("listener", "The addresses that are served",
		list(c, "Listeners with their slots and traffic", func(s admin.Status) (any, *table) { return s.Listeners, listenerTable(s.Listeners) }))
}

// list is a verb that shows one part of the status.
func list(c *ctl, short string, part func(admin.Status) (any, *table)) *cobra.Command {
	return &cobra.Command{Use: "list", Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			s, err := c.client().Status(ctx)
			if err != nil {
				return err
			}
			v, t := part(s)
			return c.show(v, t)
		}}
}

func listenerTable(all []admin.Listener) *table {
	t := &table{heads: []string{"LISTENER", "BIND", "PROTOCOL", "SCOPE", "SLOTS", "CONNECTIONS", "REQUESTS"}}
	for _, l := range all {
		t.add(l.Name, l.Name, l.Bind, l.Protocol, l.Scope, fmt.Sprintf("%d/%d", l.Live, l.Slots), l.Connections, l.Requests)
	}
	return t
}
