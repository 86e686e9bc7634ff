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
	t := &table{narrow: 5, heads: []string{"POOL", "USABLE", "ACTIVE", "BALANCE", "CHECK", "PROTOCOL"}}
	for _, p := range all {
		t.add(p.Name, p.Name, fmt.Sprintf("%d/%d", p.Usable, p.Backends), p.Active, p.Balance, p.Check, p.Protocol)
	}
	return t
}
