package main

import (
	"fmt"
	"strconv"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) service() *cobra.Command {
	return noun("service", "The L4 services: packets go to the backends",
		list(c, "Services with their pools and what they were sent", func(s admin.Status) (any, *table) { return s.Services, serviceTable(s.Services) }),
		c.serviceShow())
}

func serviceTable(all []admin.Service) *table {
	t := &table{narrow: 7, heads: []string{"SERVICE", "BIND", "PROTOCOL", "FORWARD", "POOL", "USABLE", "CONNECTIONS", "PACKETS", "BYTES", "AFFINITY"}}
	for _, s := range all {
		t.add(s.Name, s.Name, s.Bind, s.Protocol, s.Forward, s.Pool, usable(s.Usable, s.Backends),
			whole(s.Connections), whole(s.Packets), whole(s.Bytes), s.Affinity)
	}
	return t
}

func whole(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }

func (c *ctl) serviceShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "What each backend of a service gets", Args: cobra.ExactArgs(1)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := ask(cmd)
		defer cancel()
		s, err := c.client().Status(ctx)
		if err != nil {
			return err
		}
		for _, one := range s.Services {
			if one.Name == args[0] {
				return c.show(one, memberTable(one.Members))
			}
		}
		return &admin.Error{Status: 404, Code: admin.CodeNotFound, Detail: fmt.Sprintf("there is no service %q", args[0]),
			Hint: "`lbctl service list` shows them"}
	}
	return cmd
}

func memberTable(all []admin.ServiceMember) *table {
	t := &table{narrow: 5, heads: []string{"BACKEND", "SHARE", "CONNECTIONS", "PACKETS", "BYTES"}}
	for _, m := range all {
		t.add(m.Address, m.Address, fmt.Sprintf("%.1f%%", 100*m.Share), whole(m.Connections), whole(m.Packets), whole(m.Bytes))
	}
	return t
}
