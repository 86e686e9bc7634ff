package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

// maxDocument is what the daemon reads at most.
const maxDocument = 16 << 20

func (c *ctl) config() *cobra.Command {
	return noun("config", "The configuration and its history",
		c.configShow(), c.configDiff(), c.configApply(), c.configConfirm(), c.configReload(), c.configAdopt(), c.configRelease(), c.configHistory(), c.configRollback())
}

func (c *ctl) configShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [GENERATION]", Short: "The text that holds the objects, now or earlier", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeGeneration,
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

// fromFile gives a command that takes a new text the flag for it.
func fromFile(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "the new text; - is stdin")
	cmd.MarkFlagRequired("file")
	cmd.MarkFlagFilename("file", "yaml", "yml")
}

func (c *ctl) configDiff() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "diff -f FILE", Short: "What a file would change, and what that breaks", Args: cobra.NoArgs}
	fromFile(cmd, &file)
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
	var a admin.Ask
	var file string
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Replace the document that owns the objects", Args: cobra.NoArgs,
		Long: `Replace the document that owns the objects: validated whole, built by every
worker, kept, then switched in. Any error leaves what runs untouched. Objects
that the file owns are changed in the file (and config reload), not here.

With --confirm 60s the change is taken back after that time unless lbctl config
confirm comes before: a change that cuts you off mends itself, also when lbd
restarts meanwhile.`,
	}
	fromFile(cmd, &file)
	trying(cmd, &a)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		text, err := c.read(file)
		if err != nil {
			return err
		}
		return c.change(cmd, "the workers build it", func(api *admin.Client) (admin.Applied, error) {
			ctx, cancel := ask(cmd)
			defer cancel()
			return api.Apply(ctx, text, file, a)
		})
	}
	return cmd
}

// change asks for a change of the configuration and prints the verdict.
func (c *ctl) change(cmd *cobra.Command, what string, do func(*admin.Client) (admin.Applied, error)) error {
	var done admin.Applied
	err := c.during(what, func() error {
		var err error
		done, err = do(c.client())
		return err
	})
	if err != nil {
		return err
	}
	return c.showApplied(done)
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

// plainChange is a change that needs no more to be said.
func (c *ctl) plainChange(use, short, long, what string, do func(*admin.Client, *cobra.Command, admin.Ask) (admin.Applied, error)) *cobra.Command {
	var a admin.Ask
	return dryly(&cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.change(cmd, what, func(api *admin.Client) (admin.Applied, error) { return do(api, cmd, a) })
		}}, &a)
}

func (c *ctl) configConfirm() *cobra.Command {
	var a admin.Ask
	return dryly(&cobra.Command{Use: "confirm", Short: "Keep a change that was applied with --confirm", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			done, err := c.client().Confirm(ctx, a)
			switch {
			case err != nil:
				return err
			case done.DryRun:
				return c.verdict(done, done.Generation, "Generation %s waits to be confirmed.", done.Generation)
			}
			return c.verdict(done, done.Generation, "Generation %s is kept.", done.Generation)
		}}, &a)
}

func (c *ctl) configReload() *cobra.Command {
	return c.plainChange("reload", "Have the daemon read its file again, as SIGHUP does", "", "the workers build it",
		func(api *admin.Client, cmd *cobra.Command, a admin.Ask) (admin.Applied, error) {
			ctx, cancel := ask(cmd)
			defer cancel()
			return api.Reload(ctx, a)
		})
}

func (c *ctl) configAdopt() *cobra.Command {
	return c.plainChange("adopt", "Move the objects from the file to the document",
		`Move listeners, routes, pools and services from the configuration file to a
document in data_dir, which lbctl edits from then on. The file keeps the
settings of the node; objects that stay in it are not used. The way back is
lbctl config release.`, "the workers build it",
		func(api *admin.Client, cmd *cobra.Command, a admin.Ask) (admin.Applied, error) {
			ctx, cancel := ask(cmd)
			defer cancel()
			return api.Adopt(ctx, a)
		})
}

func (c *ctl) configRelease() *cobra.Command {
	var o admin.ReleaseOrder
	cmd := c.plainChange("release", "Give the objects back to the file",
		`Give listeners, routes, pools and services back to the configuration file, as
they stand in it now. Unless the file says what runs this is refused, so that
nothing is lost: put the text of lbctl config show into it first, or --discard
what the document has.`, "the workers build it",
		func(api *admin.Client, cmd *cobra.Command, a admin.Ask) (admin.Applied, error) {
			ctx, cancel := ask(cmd)
			defer cancel()
			return api.Release(ctx, o, a)
		})
	cmd.Flags().BoolVar(&o.Discard, "discard", false, "although the file says something else than what runs")
	return cmd
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
				if g.Lost != "" {
					g.Action += " (lost to " + g.Lost + ")"
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
	var a admin.Ask
	return trying(&cobra.Command{Use: "rollback GENERATION", Short: "Make an earlier generation's objects the newest", Args: cobra.ExactArgs(1),
		ValidArgsFunction: c.completeGeneration,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, "the workers build it", func(api *admin.Client) (admin.Applied, error) {
				ctx, cancel := ask(cmd)
				defer cancel()
				return api.Rollback(ctx, admin.RollbackOrder{Generation: args[0]}, a)
			})
		}}, &a)
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
	if c.format == "wide" {
		c.showBuilt(c.out, a.Workers)
	}
	switch {
	case a.DryRun && a.Changed:
		fmt.Fprintf(c.out, "%s. Generation %s runs; nothing was applied.\n", plural(len(a.Changes), "change"), a.Generation)
	case !a.Changed:
		fmt.Fprintf(c.out, "Nothing changes. Generation %s runs.\n", a.Generation)
	case len(a.Workers) > 0:
		fmt.Fprintf(c.out, "Generation %s runs, built by %s.\n", a.Generation, plural(len(a.Workers), "worker"))
	default:
		fmt.Fprintf(c.out, "Generation %s runs.\n", a.Generation)
	}
	for _, v := range a.Nodes {
		fmt.Fprintf(c.out, "node %s  %s  %s\n", v.Node, v.State, cell(v.Detail))
	}
	if t := a.Trial; t != nil {
		fmt.Fprintf(c.out, "Generation %s returns in %s unless you run: lbctl config confirm\n", t.Back, span(max(0, t.Until.Sub(now()).Round(time.Second))))
	}
	return nil
}

// showBuilt prints what each worker answered.
func (c *ctl) showBuilt(w io.Writer, all []admin.Built) {
	for _, b := range all {
		result := "ok"
		if !b.OK {
			result = "refused: " + b.Error
		}
		fmt.Fprintf(w, "worker %s (pid %d)  %s  %s\n", b.Worker, b.PID, cell(result), b.Took.Round(time.Millisecond))
	}
}
