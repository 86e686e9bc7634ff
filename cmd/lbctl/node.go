package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) node() *cobra.Command {
	return noun("node", "The nodes of the cluster", c.nodeList(), c.nodeDrain(), c.nodeUndrain(), c.nodeLeave())
}

func (c *ctl) nodeList() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{Use: "list", Short: "Nodes as the addressed one sees them", Args: cobra.NoArgs}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "again every second, until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.repeat(cmd, watch, func() error {
			ctx, cancel := ask(cmd)
			defer cancel()
			s, err := c.client().Status(ctx)
			if err != nil {
				return err
			}
			return c.show(s.Nodes, nodeTable(s.Nodes))
		})
	}
	return cmd
}

func nodeTable(all []admin.Node) *table {
	t := &table{narrow: 5, heads: []string{"NODE", "STATE", "WEIGHT", "CONNECTIONS", "SYNC", "ADDRESS", "VIEW", "GENERATION", "DOCUMENT", "SINCE"}}
	for _, n := range all {
		name := n.Name
		if n.Self {
			name += " (this)"
		}
		connections := any("-")
		if n.Connections != nil {
			connections = *n.Connections
		}
		t.add(n.Name, name, n.State, n.Weight, connections, inSync(n), n.Address, fmt.Sprintf("%04x", n.View), orDash(n.Generation), orDash(n.Document), age(n.Since))
	}
	return t
}

func orDash(s string) string { return cmp.Or(s, "-") }

func inSync(n admin.Node) string {
	switch {
	case n.Drift != nil:
		return "drifts: " + n.Drift.Document
	case !n.Listed:
		return "not listed"
	case n.InSync:
		return "in sync"
	case n.Differs != "":
		return "other " + n.Differs
	}
	return "differs"
}

func (c *ctl) nodeDrain() *cobra.Command {
	var a admin.Ask
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "drain [NAME]", Short: "Give a node no new connections; old ones live on until drain.timeout", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeNode,
		Long: `Give a node no new connections. Keep-alive clients are told to go with their
next response, the rest lives until it ends or drain.timeout is over; then the
node is empty. Only a node itself can drain: address it, or run this on it.`,
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the node is empty; exit 4 when that takes too long")
	cmd.Flags().DurationVar(&limit, "timeout", 2*time.Minute, "how long to wait")
	matching(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := c.orderNode(cmd, args, true, a)
		if err != nil {
			return err
		}
		if !wait {
			return c.verdict(admin.NodeOrder{Name: name, Drain: true}, name, "%s drains; lbctl status shows how far it is", name)
		}
		if err := c.awaitNode(cmd, name, limit); err != nil {
			return err
		}
		return c.verdict(admin.NodeOrder{Name: name, Drain: true}, name, "%s is empty", name)
	}
	return cmd
}

func (c *ctl) nodeUndrain() *cobra.Command {
	var a admin.Ask
	return matching(&cobra.Command{Use: "undrain [NAME]", Short: "Take a drain back", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := c.orderNode(cmd, args, false, a)
			if err != nil {
				return err
			}
			return c.verdict(admin.NodeOrder{Name: name}, name, "%s gets connections again", name)
		}}, &a)
}

func (c *ctl) nodeLeave() *cobra.Command {
	var a admin.Ask
	var o admin.LeaveOrder
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "leave [NAME]", Short: "Drain a node, say good-bye to the others, and end its lbd", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeNode,
		Long: `Drain a node, say good-bye to the other nodes, and end its lbd with its workers,
as SIGTERM does. The others need not wait for it to be found dead. It comes back
when lbd is started again.`,
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when lbd has ended; exit 4 when that takes too long")
	cmd.Flags().DurationVar(&limit, "timeout", 2*time.Minute, "how long to wait")
	matching(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			o.Name = args[0]
		}
		ctx, cancel := ask(cmd)
		defer cancel()
		s, err := c.client().Status(ctx)
		if err != nil {
			return err
		}
		if err := c.client().Leave(ctx, o, a); err != nil {
			return err
		}
		o.Name = s.Node
		if !wait {
			return c.verdict(o, o.Name, "%s leaves: it drains, then its lbd ends", o.Name)
		}
		if err := c.awaitEnd(cmd, o.Name, limit); err != nil {
			return err
		}
		return c.verdict(o, o.Name, "%s has left", o.Name)
	}
	return cmd
}

// awaitEnd waits until nobody answers any more.
func (c *ctl) awaitEnd(cmd *cobra.Command, name string, limit time.Duration) error {
	return c.wait(cmd, limit, func() (string, bool, error) {
		ctx, cancel := ask(cmd)
		defer cancel()
		s, err := c.client().Status(ctx)
		if gone := (*admin.Unreachable)(nil); errors.As(err, &gone) {
			return "", true, nil
		}
		return fmt.Sprintf("%s: %s open", name, plural(s.Connections, "connection")), false, err
	})
}

// orderNode gives the order and the name of the node that has it now.
func (c *ctl) orderNode(cmd *cobra.Command, args []string, drain bool, a admin.Ask) (string, error) {
	ctx, cancel := ask(cmd)
	defer cancel()
	o := admin.NodeOrder{Drain: drain}
	if len(args) > 0 {
		o.Name = args[0]
	}
	if err := c.client().OrderNode(ctx, o, a); err != nil {
		return "", err
	}
	if o.Name != "" {
		return o.Name, nil
	}
	s, err := c.client().Status(ctx)
	return s.Node, err
}

func (c *ctl) awaitNode(cmd *cobra.Command, name string, limit time.Duration) error {
	err := c.wait(cmd, limit, func() (string, bool, error) {
		ctx, cancel := ask(cmd)
		defer cancel()
		s, err := c.client().Status(ctx)
		return fmt.Sprintf("%s: %s open", name, plural(s.Connections, "connection")), s.State == "empty", err
	})
	if late := (timeout{}); errors.As(err, &late) {
		return timeout{fmt.Errorf("%w; it goes on draining: `lbctl node undrain` takes it back", late.error)}
	}
	return err
}
