package main

import (
	"fmt"
	"slices"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) listener() *cobra.Command {
	return noun("listener", "The addresses that are served",
		list(c, "Listeners with their slots and traffic", func(s admin.Status) (any, *table) { return s.Listeners, listenerTable(s.Listeners) }),
		c.refused())
}

func (c *ctl) refused() *cobra.Command {
	return &cobra.Command{Use: "refused [LISTENER]", Short: "The last malformed requests: from whom, which rule they broke, how they began", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			all, err := c.client().Refused(ctx)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				all = slices.DeleteFunc(all, func(r admin.Refusal) bool { return r.Listener != args[0] })
			}
			return c.show(all, refusedTable(all))
		}}
}

// shownHead is how much of a head a table has room for.
const shownHead = 60

func refusedTable(all []admin.Refusal) *table {
	t := &table{narrow: 7, heads: []string{"TIME", "LISTENER", "CLIENT", "STATUS", "REASON", "RULE", "BEGAN", "WHOLE"}}
	for _, r := range all {
		began := r.Head
		if len(began) > shownHead {
			began = began[:shownHead] + "..."
		}
		t.add(r.Client, stamp(r.Time), r.Listener, r.Client, r.Status, r.Reason, r.Error, began, r.Head)
	}
	return t
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
