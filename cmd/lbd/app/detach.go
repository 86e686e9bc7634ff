package app

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
	"github.com/cirque-lb/lb/l4"
)

func newDetach() *cobra.Command {
	c := &cobra.Command{
		Use: "detach", Short: "Remove what lbd left in the kernel", Args: usage(cobra.NoArgs),
		Long: "Remove what outlives lbd: programs, maps, routes, settings, and workers whose supervisor was killed. Packets then go as if lbd had never run. It needs lbd to be stopped.",
	}
	file := configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		text, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		config, err := parse(*file, text)
		if err != nil {
			return err
		}
		lock, err := worker.Lock(config.Node.RunDir)
		if err != nil {
			return err
		}
		defer lock.Close()
		if killed, err := worker.KillAll(config.Node.RunDir); err != nil {
			return err
		} else if killed > 0 {
			fmt.Fprintf(c.OutOrStdout(), "ended %d workers whose supervisor was gone\n", killed)
		}
		if err := l4.Detach(pathOptions(config)); err != nil {
			return coded{exitMissing, err}
		}
		fmt.Fprintln(c.OutOrStdout(), "detached", config.Fastpath.Pins)
		return nil
	}
	return c
}
