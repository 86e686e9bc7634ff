package main

import (
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) service() *cobra.Command {
	return noun("service", "The L4 services: packets go to the backends",
		list(c, "Services with their pools", func(s admin.Status) (any, *table) { return s.Services, serviceTable(s.Services) }))
}

func serviceTable(all []admin.Service) *table {
	t := &table{narrow: 6, heads: []string{"SERVICE", "BIND", "PROTOCOL", "FORWARD", "POOL", "USABLE", "AFFINITY"}}
	for _, s := range all {
		t.add(s.Name, s.Name, s.Bind, s.Protocol, s.Forward, s.Pool, usable(s.Usable, s.Backends), s.Affinity)
	}
	return t
}
