package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) events() *cobra.Command {
	var watch bool
	var last int
	cmd := &cobra.Command{Use: "events", Short: "Ejections, drains, epochs, fallbacks, with reasons", Args: cobra.NoArgs}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print new ones as they come, until interrupted")
	cmd.Flags().IntVarP(&last, "last", "n", 50, "how many old ones to print")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := ask(cmd)
		defer cancel()
		list, err := c.client().Events(ctx, 0)
		if err != nil {
			return err
		}
		after := uint64(0)
		if len(list) > 0 {
			after = list[len(list)-1].Seq
		}
		list = list[max(0, len(list)-max(last, 0)):]
		if !watch {
			return c.show(list, eventTable(list))
		}
		for _, e := range list {
			c.printEvent(e)
		}
		return untilInterrupted(cmd, c.client().Watch(cmd.Context(), after, func(e admin.Event) error { return c.printEvent(e) }))
	}
	return cmd
}

func eventTable(list []admin.Event) *table {
	t := &table{heads: []string{"TIME", "EVENT", "SUBJECT", "REASON", "DETAIL"}}
	for _, e := range list {
		t.add(fmt.Sprint(e.Seq), stamp(e.Time), e.Kind, e.Subject, e.Reason, e.Detail)
	}
	return t
}

// printEvent writes one line: an event, or a JSON object of one.
func (c *ctl) printEvent(e admin.Event) error {
	if c.format == "json" {
		return json.NewEncoder(c.out).Encode(e)
	}
	_, err := fmt.Fprintf(c.out, "%s  %s  %s  %s  %s\n", stamp(e.Time), e.Kind, cell(e.Subject), cell(e.Reason), cell(e.Detail))
	return err
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}
