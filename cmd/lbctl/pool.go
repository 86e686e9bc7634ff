package main

import (
	"fmt"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) pool() *cobra.Command {
	return noun("pool", "Backends with a balancer and a check",
		list(c, "Pools and how many of their backends can serve", func(s admin.Status) (any, *table) { return s.Pools, poolTable(s.Pools) }))
}

func poolTable(all []admin.Pool) *table {
	t := &table{narrow: 5, heads: []string{"POOL", "USABLE", "ACTIVE", "BALANCE", "CHECK", "PROTOCOL", "DISCOVERS"}}
	for _, p := range all {
		t.add(p.Name, p.Name, usable(p.Usable, p.Backends), p.Active, p.Balance, p.Check, p.Protocol, p.Discover)
	}
	return t
}

func usable(n, of int) string { return fmt.Sprintf("%d/%d", n, of) }

// sourceTable lists where pools find backends.
func sourceTable(all []admin.Source) *table {
	t := &table{heads: []string{"SOURCE", "POOLS", "BACKENDS", "ANSWERED", "FAILS"}}
	for _, s := range all {
		t.add(s.Name, s.Name, someOf(s.Pools), s.Backends, age(s.Answered), s.Error)
	}
	return t
}
