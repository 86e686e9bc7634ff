package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) backend() *cobra.Command {
	return noun("backend", "The servers of the pools",
		c.backendList(), c.backendAdd(), c.backendSet(), c.backendRemove(), c.backendDrain(),
		c.backendOrder("undrain", "Take back a drain or a disable", admin.BackendOrder{Drain: new(bool), Disable: new(bool)}, "gets requests again"),
		c.backendOrder("disable", "Give a backend no requests and cut those in progress", admin.BackendOrder{Disable: yes()}, "is disabled"))
}

func yes() *bool {
	b := true
	return &b
}

func (c *ctl) backendList() *cobra.Command {
	var pool string
	var watch bool
	cmd := &cobra.Command{Use: "list", Short: "Backends with health, orders and use", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&pool, "pool", "", "of this pool only")
	cmd.RegisterFlagCompletionFunc("pool", c.completePool)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "again every second, until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.repeat(cmd, watch, func() error {
			ctx, cancel := ask(cmd)
			defer cancel()
			all, err := c.client().Backends(ctx)
			if err != nil {
				return err
			}
			all = ofPool(all, pool)
			return c.show(all, backendTable(all))
		})
	}
	return cmd
}

func ofPool(all []admin.Backend, pool string) []admin.Backend {
	if pool == "" {
		return all
	}
	some := []admin.Backend{}
	for _, b := range all {
		if b.Pool == pool {
			some = append(some, b)
		}
	}
	return some
}

func backendTable(all []admin.Backend) *table {
	t := &table{narrow: 6, heads: []string{"BACKEND", "STATE", "WEIGHT", "ACTIVE", "REQUESTS", "FAILURES", "CONNECTIONS", "SINCE", "LAST CHECK", "FROM"}}
	for _, b := range all {
		from := "document"
		if b.Discovered {
			from = "discovery"
		}
		t.add(b.ID, b.ID, b.State, weight(b), b.Active, b.Requests, b.Failures, b.Connections, age(b.Since), b.Check, from)
	}
	return t
}

// weight shows the weight in force, and the document's when that differs.
func weight(b admin.Backend) string {
	text := strconv.Itoa(b.Weight)
	if b.Weight != b.Configured {
		text += fmt.Sprintf(" (configured %d)", b.Configured)
	}
	if b.Backup {
		text += " backup"
	}
	return text
}

func (c *ctl) backendAdd() *cobra.Command {
	var e admin.BackendEdit
	var a admin.Ask
	var w int
	var backup bool
	cmd := &cobra.Command{Use: "add POOL/ADDRESS", Short: "Add a backend to the document", Args: cobra.ExactArgs(1), ValidArgsFunction: c.completePoolPrefix}
	cmd.Flags().IntVar(&w, "weight", 1, "its share, 0 to 1000")
	cmd.Flags().BoolVar(&backup, "backup", false, "use it only when no other is up")
	trying(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e.Action, e.Weight, e.Backup = "add", &w, &backup
		return c.edit(cmd, e, args[0], a)
	}
	return cmd
}

func (c *ctl) backendSet() *cobra.Command {
	var e admin.BackendEdit
	var a admin.Ask
	var w int
	var backup bool
	var override string
	cmd := &cobra.Command{
		Use: "set POOL/ADDRESS", Short: "Change a backend's weight or role", Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeBackend,
		Long: `Change a backend in the document (--weight, --backup), or let an operator's
weight stand over the document's until it is taken back (--override-weight N,
then --override-weight none).`,
	}
	cmd.Flags().IntVar(&w, "weight", 1, "its share, 0 to 1000")
	cmd.Flags().BoolVar(&backup, "backup", false, "use it only when no other is up")
	cmd.Flags().StringVar(&override, "override-weight", "", "a weight beside the document, or none")
	trying(cmd, &a)
	cmd.MarkFlagsOneRequired("weight", "backup", "override-weight")
	for _, other := range []string{"weight", "backup", "dry-run", "confirm"} {
		cmd.MarkFlagsMutuallyExclusive(other, "override-weight")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if override != "" {
			return c.overrideWeight(cmd, args[0], override, a)
		}
		e.Action = "set"
		if cmd.Flags().Changed("weight") {
			e.Weight = &w
		}
		if cmd.Flags().Changed("backup") {
			e.Backup = &backup
		}
		return c.edit(cmd, e, args[0], a)
	}
	return cmd
}

func (c *ctl) overrideWeight(cmd *cobra.Command, id, text string, a admin.Ask) error {
	o := admin.BackendOrder{ID: id, ClearWeight: text == "none"}
	if !o.ClearWeight {
		w, err := strconv.Atoi(text)
		if err != nil {
			return usage{fmt.Errorf("--override-weight %s: a number, or none", text)}
		}
		o.Weight = &w
	}
	ctx, cancel := ask(cmd)
	defer cancel()
	if err := c.client().OrderBackend(ctx, o, a); err != nil {
		return err
	}
	return c.verdict(o, id, "%s has the weight %s", id, map[bool]string{true: "of the document", false: text}[o.ClearWeight])
}

func (c *ctl) backendRemove() *cobra.Command {
	var a admin.Ask
	cmd := &cobra.Command{Use: "remove POOL/ADDRESS", Short: "Remove a backend from the document", Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeBackend}
	trying(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.edit(cmd, admin.BackendEdit{Action: "remove"}, args[0], a)
	}
	return cmd
}

func (c *ctl) edit(cmd *cobra.Command, e admin.BackendEdit, id string, a admin.Ask) error {
	var ok bool
	if e.Pool, e.Address, ok = strings.Cut(id, "/"); !ok || e.Pool == "" || e.Address == "" {
		return usage{fmt.Errorf("%q: a backend is named POOL/ADDRESS, such as app/10.0.1.1:8080", id)}
	}
	return c.change(cmd, "the workers build it", func(api *admin.Client) (admin.Applied, error) {
		ctx, cancel := ask(cmd)
		defer cancel()
		return api.EditBackend(ctx, e, a)
	})
}

// backendOrder is a verb that changes the overlay and waits for nothing.
func (c *ctl) backendOrder(verb, short string, o admin.BackendOrder, said string) *cobra.Command {
	var a admin.Ask
	return matching(&cobra.Command{Use: verb + " POOL/ADDRESS", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeBackend,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			o := o
			o.ID = args[0]
			if err := c.client().OrderBackend(ctx, o, a); err != nil {
				return err
			}
			return c.verdict(o, o.ID, "%s %s", o.ID, said)
		}}, &a)
}

func (c *ctl) backendDrain() *cobra.Command {
	var a admin.Ask
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "drain POOL/ADDRESS", Short: "Give a backend no new requests; those in progress finish",
		Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeBackend,
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when nothing is in progress; exit 4 when that takes too long")
	cmd.Flags().DurationVar(&limit, "timeout", time.Minute, "how long to wait")
	matching(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := ask(cmd)
		defer cancel()
		o := admin.BackendOrder{ID: args[0], Drain: yes()}
		if err := c.client().OrderBackend(ctx, o, a); err != nil {
			return err
		}
		if !wait {
			return c.verdict(o, o.ID, "%s drains; lbctl backend list shows what is in progress", o.ID)
		}
		if err := c.awaitBackend(cmd, o.ID, limit); err != nil {
			return err
		}
		return c.verdict(o, o.ID, "%s is empty", o.ID)
	}
	return cmd
}

// awaitBackend waits until a backend was empty twice in a row: workers hear of
// a drain a moment after it was ordered, and may pick the backend until then.
func (c *ctl) awaitBackend(cmd *cobra.Command, id string, limit time.Duration) error {
	empty := 0
	err := c.wait(cmd, limit, func() (string, bool, error) {
		ctx, cancel := ask(cmd)
		defer cancel()
		b, err := c.find(ctx, id)
		if err != nil {
			return "", false, err
		}
		if empty++; b.Active > 0 {
			empty = 0
		}
		return fmt.Sprintf("%s: %s in progress", id, plural(b.Active, "request")), empty == 2, nil
	})
	if late := (timeout{}); errors.As(err, &late) {
		return timeout{fmt.Errorf("%w; it goes on draining: `lbctl backend disable %s` cuts what is left, undrain takes it back", late.error, id)}
	}
	return err
}

func (c *ctl) find(ctx context.Context, id string) (admin.Backend, error) {
	all, err := c.client().Backends(ctx)
	if err != nil {
		return admin.Backend{}, err
	}
	for _, b := range all {
		if b.ID == id {
			return b, nil
		}
	}
	return admin.Backend{ID: id}, nil // it left the configuration: nothing is in progress
}
