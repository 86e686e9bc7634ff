package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

func (c *ctl) listener() *cobra.Command {
	return noun("listener", "The addresses that are served",
		list(c, "Listeners with their slots and traffic", func(s admin.Status) (any, *table) { return s.Listeners, listenerTable(s.Listeners) }),
		c.drain("listener", c.listenerDrains()), c.undrain(c.listenerDrains()), c.refused())
}

func (c *ctl) listenerDrains() drainable {
	return drainable{
		arg: "NAME", drain: "Give a listener no new clients; old ones are told to go",
		long: `Give a listener of the addressed node no new clients. In a cluster its VIP is
withdrawn first: what comes to this node goes to nodes that serve it. Who comes all
the same is turned away, over plain HTTP with a 503. Clients that are here are told
to go with their next response, the rest lives until it ends or drain.timeout is
over; then the listener's sockets are closed, and who comes is refused. The order
outlives restarts. undrain opens the sockets again, or says why that is not possible.`,
		undrain: "Open a listener that drains", end: "is closed", again: "gets clients again", complete: c.completeListener,
		order: func(ctx context.Context, name string, drain bool, a admin.Ask) (any, error) {
			o := admin.ListenerOrder{Name: name, Drain: drain}
			return o, c.client().OrderListener(ctx, o, a)
		},
		left: func(s admin.Status, name string) (int, bool) {
			for _, l := range s.Listeners {
				if l.Name == name {
					return int(l.Connections), l.Drain == "closed"
				}
			}
			return 0, true
		},
	}
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
		name := l.Name
		if l.Drain != "" {
			name += " (" + l.Drain + ")"
		}
		t.add(l.Name, name, l.Bind, l.Protocol, l.Scope, fmt.Sprintf("%d/%d", l.Live, l.Slots), l.Connections, l.Requests)
	}
	return t
}
