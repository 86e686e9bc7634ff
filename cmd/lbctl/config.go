package main

import (
	"fmt"
	"io"
	"os"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

// maxDocument is what the daemon reads at most.
const maxDocument = 16 << 20

func (c *ctl) config() *cobra.Command {
	return noun("config", "The configuration and its history",
		c.configShow(), c.configDiff(), c.configApply(), c.configReload(), c.configAdopt(), c.configHistory(), c.configRollback())
}

func (c *ctl) configShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [GENERATION]", Short: "The text that holds the objects, now or earlier", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			generation := ""
			if len(args) > 0 {
				generation = args[0]
			}
			d, err := c.client().Document(ctx, generation)
			if err != nil {
				return err
			}
			switch c.format {
			case "json":
				return writeJSON(c.out, d)
			case "name":
				_, err = fmt.Fprintln(c.out, d.Generation)
			default: // the text is YAML
				_, err = io.WriteString(c.out, d.Text)
			}
			return err
		},
	}
}

func (c *ctl) configDiff() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "diff -f FILE", Short: "What a file would change, and what that breaks", Args: cobra.NoArgs}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the new text; - is stdin")
	cmd.MarkFlagRequired("file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		text, err := c.read(file)
		if err != nil {
			return err
		}
		ctx, cancel := ask(cmd)
		defer cancel()
		done, err := c.client().Diff(ctx, text, file)
		if err != nil {
			return err
		}
		return c.showApplied(done)
	}
	return cmd
}

func (c *ctl) configApply() *cobra.Command {
	var a admin.Apply
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Replace the document that owns the objects", Args: cobra.NoArgs,
		Long: `Replace the document that owns the objects: validated whole, built by every
worker, kept, then switched in. Any error leaves what runs untouched. Objects
that the file owns are changed in the file (and config reload), not here.`,
	}
	cmd.Flags().StringVarP(&a.File, "file", "f", "", "the new text; - is stdin")
	cmd.Flags().BoolVar(&a.DryRun, "dry-run", false, "validate and show what would change, no more")
	cmd.Flags().StringVar(&a.Match, "if-match", "", "refuse unless this generation runs")
	cmd.MarkFlagRequired("file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if a.Text, err = c.read(a.File); err != nil {
			return err
		}
		ctx, cancel := ask(cmd)
		defer cancel()
		done, err := c.client().Apply(ctx, a)
		if err != nil {
			return err
		}
		return c.showApplied(done)
	}
	return cmd
}

func (c *ctl) read(file string) ([]byte, error) {
	in := c.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err == nil && len(text) > maxDocument {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", file, maxDocument)
	}
	return text, err
}

func (c *ctl) configReload() *cobra.Command {
	return &cobra.Command{Use: "reload", Short: "Have the daemon read its file again, as SIGHUP does", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			done, err := c.client().Reload(ctx)
			if err != nil {
				return err
			}
			return c.showApplied(done)
		}}
}

func (c *ctl) configAdopt() *cobra.Command {
	return &cobra.Command{Use: "adopt", Short: "Move the objects from the file to the document", Args: cobra.NoArgs,
		Long: `Move listeners, routes, pools and services from the configuration file to a
document in data_dir, which lbctl edits from then on. The file keeps the
settings of the node; objects that stay in it are not used.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			done, err := c.client().Adopt(ctx)
			if err != nil {
				return err
			}
			return c.showApplied(done)
		}}
}

func (c *ctl) configHistory() *cobra.Command {
	return &cobra.Command{Use: "history", Short: "The generations that are kept, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			all, err := c.client().History(ctx)
			if err != nil {
				return err
			}
			t := &table{narrow: 4, heads: []string{"GENERATION", "TIME", "ACTION", "BY", "OWNER", "BYTES"}}
			for _, g := range all {
				name := g.Generation
				if g.Current {
					name += " (runs)"
				}
				if g.Trouble != "" {
					g.Action = "unreadable: " + g.Trouble
				}
				t.add(g.Generation, name, stamp(g.Time), g.Action, g.By, g.Owner, g.Bytes)
			}
			return c.show(all, t)
		}}
}

func (c *ctl) configRollback() *cobra.Command {
	return &cobra.Command{Use: "rollback GENERATION", Short: "Make an earlier generation's objects the newest", Args: cobra.ExactArgs(1),
		ValidArgsFunction: c.completeGeneration,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			done, err := c.client().Rollback(ctx, args[0])
			if err != nil {
				return err
			}
			return c.showApplied(done)
		}}
}

func (c *ctl) completeGeneration(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := ask(cmd)
	defer cancel()
	all, err := c.client().History(ctx)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, g := range all {
		names = append(names, g.Generation+"\t"+g.Action)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// showApplied prints the verdict on a change: what differs, what breaks, which
// generation runs.
func (c *ctl) showApplied(a admin.Applied) error {
	if c.format != "table" && c.format != "wide" {
		return c.verdict(a, a.Generation, "")
	}
	for _, d := range a.Changes {
		fmt.Fprintln(c.out, cell(d.Text))
		if d.Breaks != "" {
			fmt.Fprintf(c.out, "  breaks: %s\n", d.Breaks)
		}
	}
	for _, n := range a.Notes {
		fmt.Fprintf(c.out, "note: %s\n", n)
	}
	switch {
	case !a.Changed:
		fmt.Fprintf(c.out, "Nothing changes. Generation %s runs.\n", a.Generation)
	case a.DryRun:
		fmt.Fprintf(c.out, "%s. Generation %s runs; nothing was applied.\n", plural(len(a.Changes), "change"), a.Generation)
	default:
		fmt.Fprintf(c.out, "Generation %s runs.\n", a.Generation)
	}
	return nil
}
