package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) status() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "What is exposed, where traffic goes, what is healthy, what is broken",
		Long: `The five daily questions on one screen: what is exposed, which listener gets
traffic, which route sends it where, are the backends healthy, are the nodes in
sync. Exit 8 when something is broken that an operator can mend.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "again every second, until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.repeat(cmd, watch, func() error {
			ctx, cancel := ask(cmd)
			defer cancel()
			s, err := c.client().Status(ctx)
			if err != nil {
				return err
			}
			if err := c.showStatus(s); err != nil {
				return err
			}
			if s.Degraded() && !watch {
				return degraded{}
			}
			return nil
		})
	}
	return cmd
}

func (c *ctl) showStatus(s admin.Status) error {
	if c.format == "table" || c.format == "wide" {
		return writeStatus(c.out, s, c.format == "wide")
	}
	return c.show(s, &table{names: []string{s.Node}})
}

func writeStatus(w io.Writer, s admin.Status, wide bool) error {
	fmt.Fprintf(w, "%s  %s  generation %s  objects owned by %s  up %s\n", s.Node, s.State, s.Generation, owner(s), age(s.Started))
	fmt.Fprintf(w, "fast path %s  connections %d  requests in progress %d\n", fastpath(s.Fastpath), s.Connections, s.Requests)
	for _, part := range []struct {
		title string
		table *table
	}{
		{"exposed", listenerTable(s.Listeners)},
		{"routes", routeTable(s.Routes)},
		{"pools", poolTable(s.Pools)},
		{"services", serviceTable(s.Services)},
		{"discovery", sourceTable(s.Sources)},
		{"workers", workerTable(s.Workers)},
		{"nodes", nodeTable(s.Nodes)},
	} {
		if len(part.table.rows) == 0 {
			continue
		}
		var rows strings.Builder
		if err := part.table.write(&rows, wide); err != nil {
			return err
		}
		fmt.Fprintf(w, "\n%s\n", strings.ToUpper(part.title))
		for line := range strings.Lines(rows.String()) {
			io.WriteString(w, "  "+line)
		}
	}
	return writeVerdict(w, s)
}

// writeVerdict ends the screen: what was chosen, what is broken, and whether
// all is well.
func writeVerdict(w io.Writer, s admin.Status) error {
	fmt.Fprintln(w)
	for _, n := range s.Notes {
		fmt.Fprintf(w, "note: %s\n", cell(n))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "problem: %s %s\n", p.Subject, cell(p.Text))
		if p.Do != "" {
			fmt.Fprintf(w, "         %s\n", p.Do)
		}
	}
	if s.Degraded() {
		_, err := fmt.Fprintf(w, "degraded: %s\n", plural(len(s.Problems), "problem"))
		return err
	}
	_, err := fmt.Fprintln(w, "ok")
	return err
}

func owner(s admin.Status) string {
	if s.Owner == "file" {
		return s.File
	}
	return "the document"
}

func fastpath(f admin.Fastpath) string {
	text := f.Mode
	if f.Epoch != "" {
		text += fmt.Sprintf("  epoch %s  view %04x", f.Epoch, f.View)
	}
	return text
}

// now is the clock that ages are told by; tests stop it.
var now = time.Now

// age is how long ago something was, coarsely.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(max(0, now().Sub(t)))
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
