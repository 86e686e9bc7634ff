package main

import (
	"fmt"
	"strings"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) route() *cobra.Command {
	return noun("route", "Which requests go where",
		list(c, "Routes in the order of matching", func(s admin.Status) (any, *table) { return s.Routes, routeTable(s.Routes) }))
}

func routeTable(all []admin.Route) *table {
	t := &table{heads: []string{"ROUTE", "LINE", "MATCH", "FILTERS", "TO"}}
	for _, r := range all {
		t.add(fmt.Sprint(r.Index), r.Index, r.Line, r.Match, strings.Join(r.Filters, ","), r.Target)
	}
	return t
}
