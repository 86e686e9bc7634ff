package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) why() *cobra.Command {
	return noun("why", "Why something is as it is", c.whyBackend())
}

func (c *ctl) whyBackend() *cobra.Command {
	return &cobra.Command{
		Use: "backend POOL/ADDRESS", Short: "Why a backend gets requests, or none", Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeBackend,
		Long: `Why a backend gets requests, or none: where it comes from, what its last checks
saw and how long they took, ejections, what happened to it, and what operators
did about it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			s, err := c.client().Story(ctx, args[0])
			if err != nil {
				return err
			}
			if c.format != "table" && c.format != "wide" {
				return c.show(s, &table{names: []string{s.Verdict}})
			}
			return writeStory(c.out, s)
		},
	}
}

func writeStory(w io.Writer, s admin.Story) error {
	b := s.Backend
	fmt.Fprintf(w, "%s  %s  weight %s  %d in progress  %s\n", b.ID, b.State, weight(b), b.Active, plural(b.Connections, "connection"))
	fmt.Fprintln(w, cell(s.Verdict))
	for _, line := range s.Why {
		fmt.Fprintf(w, "  %s\n", cell(line))
	}
	for _, part := range []struct {
		title string
		table *table
	}{
		{"LAST CHECKS", checkTable(s.Checks)},
		{"EVENTS", storyEvents(s.Events)},
		{"OPERATORS", actTable(s.Acts)},
	} {
		if len(part.table.rows) == 0 {
			continue
		}
		var rows strings.Builder
		if err := part.table.write(&rows, true); err != nil {
			return err
		}
		fmt.Fprintf(w, "\n%s\n", part.title)
		for line := range strings.Lines(rows.String()) {
			io.WriteString(w, "  "+line)
		}
	}
	return nil
}

func checkTable(all []admin.Check) *table {
	t := &table{heads: []string{"TIME", "AGO", "RESULT", "TOOK", "SAW"}}
	for _, c := range all {
		result := "pass"
		if !c.OK {
			result = "fail"
		}
		t.add("", stamp(c.Time), age(c.Time), result, took(c.Took), c.Detail)
	}
	return t
}

func storyEvents(all []admin.Event) *table {
	t := &table{heads: []string{"TIME", "EVENT", "SUBJECT", "REASON", "DETAIL"}}
	for _, e := range all {
		t.add("", stamp(e.Time), e.Kind, e.Subject, e.Reason, e.Detail)
	}
	return t
}

func actTable(all []admin.Act) *table {
	t := &table{heads: []string{"TIME", "BY", "DID", "RESULT"}}
	for _, a := range all {
		result := "done"
		if a.Refused != "" {
			result = "refused: " + a.Refused
		}
		t.add("", stamp(a.Time), a.By, did(a), result)
	}
	return t
}

// did is an act in the words of lbctl.
func did(a admin.Act) string {
	order, _ := a.Order.(map[string]any)
	var parts []string
	switch {
	case order["action"] != nil:
		parts = append(parts, fmt.Sprint("backend ", order["action"]))
	case order["disable"] == true:
		parts = append(parts, "disable")
	case order["drain"] == true:
		parts = append(parts, "drain")
	case order["drain"] == false:
		parts = append(parts, "undrain")
	case order["clear_weight"] == true:
		parts = append(parts, "override-weight none")
	case order["weight"] != nil:
		parts = append(parts, fmt.Sprint("override-weight ", order["weight"]))
	default:
		parts = append(parts, a.Path)
	}
	if order["action"] != nil && order["weight"] != nil {
		parts = append(parts, fmt.Sprint("weight ", order["weight"]))
	}
	if a.DryRun {
		parts = append(parts, "(dry run)")
	}
	return strings.Join(parts, " ")
}

// took is a duration as people read it.
func took(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
