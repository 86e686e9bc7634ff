package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) listener() *cobra.Command {
	return noun("listener", "The addresses that are served",
		list(c, "Listeners with their slots and traffic", func(s admin.Status) (any, *table) { return s.Listeners, listenerTable(s.Listeners) }),
		c.listenerDrain(), c.listenerUndrain(), c.refused())
}

func (c *ctl) listenerDrain() *cobra.Command {
	var a admin.Ask
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "drain NAME", Short: "Give a listener no new clients; old ones are told to go", Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeListener,
		Long: `Give a listener of the addressed node no new clients: those that come are turned
away, over plain HTTP with a 503. Clients that are here are told to go with their
next response, the rest lives until it ends or drain.timeout is over; then the
listener is empty. The order outlives restarts.`,
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the listener is empty; exit 4 when that takes too long")
	cmd.Flags().DurationVar(&limit, "timeout", 2*time.Minute, "how long to wait")
	matching(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := admin.ListenerOrder{Name: args[0], Drain: true}
		if err := c.orderListener(cmd, o, a); err != nil {
			return err
		}
		if !wait {
			return c.verdict(o, o.Name, "%s drains; lbctl listener list shows how far it is", o.Name)
		}
		if err := c.awaitListener(cmd, o.Name, limit); err != nil {
			return err
		}
		return c.verdict(o, o.Name, "%s is empty", o.Name)
	}
	return cmd
}

func (c *ctl) listenerUndrain() *cobra.Command {
	var a admin.Ask
	return matching(&cobra.Command{Use: "undrain NAME", Short: "Take a drain back", Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeListener,
		RunE: func(cmd *cobra.Command, args []string) error {
			o := admin.ListenerOrder{Name: args[0]}
			if err := c.orderListener(cmd, o, a); err != nil {
				return err
			}
			return c.verdict(o, o.Name, "%s gets clients again", o.Name)
		}}, &a)
}

func (c *ctl) orderListener(cmd *cobra.Command, o admin.ListenerOrder, a admin.Ask) error {
	ctx, cancel := ask(cmd)
	defer cancel()
	return c.client().OrderListener(ctx, o, a)
}

func (c *ctl) awaitListener(cmd *cobra.Command, name string, limit time.Duration) error {
	err := c.wait(cmd, limit, func() (string, bool, error) {
		ctx, cancel := ask(cmd)
		defer cancel()
		s, err := c.client().Status(ctx)
		for _, l := range s.Listeners {
			if l.Name == name {
				return fmt.Sprintf("%s: %s open", name, plural(int(l.Connections), "connection")), l.Drain == "empty", err
			}
		}
		return name + " is not configured any more", err == nil, err
	})
	if late := (timeout{}); errors.As(err, &late) {
		return timeout{fmt.Errorf("%w; it goes on draining: `lbctl listener undrain %s` takes it back", late.error, name)}
	}
	return err
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
