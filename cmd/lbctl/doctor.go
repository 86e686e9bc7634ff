package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// finding is what the doctor says of one thing.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"` // ok | warn | fail
	Found  string `json:"found"`
	Fix    string `json:"fix,omitempty"` // the command that mends it
	lacks  bool   // it is a privilege or a kernel feature
}

func (c *ctl) doctor() *cobra.Command {
	var file string
	var interfaces []string
	cmd := &cobra.Command{
		Use: "doctor", Short: "What this host has and lacks, with the command that fixes it", Args: cobra.NoArgs,
		Long: `Look at this host: kernel, BTF, bpffs, capabilities, XDP, sysctls, ports, file
limits. It needs no daemon; with one running it looks at what that one serves.
Exit 6 when a privilege or kernel feature is missing that the configuration
asks for, 1 when something else fails.`,
	}
	cmd.Flags().StringVarP(&file, "config", "c", "/etc/lbd/lbd.yaml", "look at what this configuration needs")
	cmd.Flags().StringSliceVar(&interfaces, "interface", nil, "interfaces for XDP (default: fastpath.interfaces)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		found := c.examine(cmd, file, interfaces)
		t := &table{heads: []string{"RESULT", "CHECK", "FOUND", "FIX"}}
		for _, f := range found {
			t.add(f.Check, f.Result, f.Check, f.Found, f.Fix)
		}
		if err := c.show(found, t); err != nil {
			return err
		}
		return diagnosis(found)
	}
	return cmd
}

func diagnosis(found []finding) error {
	failed, lacks := 0, 0
	for _, f := range found {
		if f.Result == "fail" {
			failed++
			if f.lacks {
				lacks++
			}
		}
	}
	switch {
	case lacks > 0:
		return missing{fmt.Errorf("%s; the fixes stand beside them", plural(failed, "check")+" failed")}
	case failed > 0:
		return fmt.Errorf("%s; the fixes stand beside them", plural(failed, "check")+" failed")
	}
	return nil
}
