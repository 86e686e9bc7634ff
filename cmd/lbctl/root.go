package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// askTime bounds one question to the daemon.
const askTime = 2 * time.Minute

// ctl is one run of lbctl.
type ctl struct {
	in        io.Reader
	out, errs io.Writer
	address   string
	format    string
	began     bool // the command line was understood
}

func (c *ctl) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "lbctl",
		Short:             "Steer a Cirque load balancer",
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return c.check(cmd) },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.address, "addr", "", "admin socket (default $LBCTL_ADDR, then the default of admin.socket)")
	flags.StringVarP(&c.format, "output", "o", "table", "table, wide, json, yaml or name")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(c.status(), c.backend(), c.node(), c.config(), c.upgrade(), c.explain(), c.capture(), c.events(), c.doctor(),
		c.cluster(), c.listener(), c.worker(), c.route(), c.pool(), c.service(), c.cert(), c.why(), c.top(), c.schema(), c.version())
	c.markBegin(root)
	return root
}

// markBegin has every command note that it runs: an error before that is the
// command line's.
func (c *ctl) markBegin(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		c.markBegin(sub)
	}
	if do := cmd.RunE; do != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			c.began = true
			return do(cmd, args)
		}
	}
}

// check refuses flags that no command understands.
func (c *ctl) check(cmd *cobra.Command) error {
	if err := checkFlags(cmd); err != nil {
		return err
	}
	if !contains(formats, c.format) {
		return fmt.Errorf("-o %s: say %s", c.format, strings.Join(formats, ", "))
	}
	address := cmp.Or(c.address, os.Getenv("LBCTL_ADDR"))
	if scheme, _, ok := strings.Cut(address, "://"); ok && scheme != "unix" {
		return fmt.Errorf("--addr %s: lbctl talks over the unix socket only; run it on that node: ssh NODE lbctl …", address)
	}
	return nil
}

// checkFlags refuses values that would be taken for none: an empty --if-match is
// a script's variable that was not set, and no wish for no condition at all.
func checkFlags(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch value := f.Value.String(); {
		case f.Value.Type() == "string" && value == "":
			err = fmt.Errorf("--%s is empty", f.Name)
		case f.Value.Type() == "duration" && value[0] == '-':
			err = fmt.Errorf("--%s %s: a time is not negative", f.Name, value)
		}
	})
	return err
}

// noun groups verbs. Alone it says which there are.
func noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	n := &cobra.Command{Use: name, Short: short}
	var names []string
	for _, v := range verbs {
		names = append(names, v.Name())
	}
	n.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("say what to do: %s %s", cmd.CommandPath(), strings.Join(names, "|"))
		}
		return fmt.Errorf("%s has no %q; there are %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
	n.RunE = func(*cobra.Command, []string) error { return nil }
	n.AddCommand(verbs...)
	return n
}

// client reaches the daemon.
func (c *ctl) client() *admin.Client { return admin.Dial(c.socket()) }

// socket is the daemon's address: as told, or where a default configuration
// has it. Without root that is the user's own lbd, or else the system's.
func (c *ctl) socket() string {
	if a := cmp.Or(c.address, os.Getenv("LBCTL_ADDR")); a != "" {
		return strings.TrimPrefix(a, "unix://")
	}
	const system = "/run/lbd/lbd.sock"
	config, err := lb.Parse(nil, lb.Options{})
	if err != nil {
		return system
	}
	if _, err := os.Stat(config.Admin.Socket); err != nil {
		if _, err := os.Stat(system); err == nil {
			return system
		}
	}
	return config.Admin.Socket
}

// ask bounds a question.
func ask(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), askTime)
}

// someOf lists names in a sentence.
func someOf(names []string) string { return strings.Join(names, ", ") }

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// say writes to whoever watches; results never go this way.
func (c *ctl) say(format string, args ...any) { fmt.Fprintf(c.errs, format+"\n", args...) }
