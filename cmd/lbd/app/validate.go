package app

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/l7"
)

func newValidate() *cobra.Command {
	c := &cobra.Command{
		Use: "validate", Short: "Check a configuration file", Args: usage(cobra.NoArgs),
		Long: "Check a configuration file without running it. Exits 3 when it is refused, with every error in it.",
	}
	file := configFlag(c)
	schema := c.Flags().Bool("schema", false, "print the JSON Schema of configuration files instead")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *schema {
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s\n", lb.Schema())
			return err
		}
		text, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		config, err := parse(*file, text)
		if err != nil {
			return err
		}
		if _, err := config.ReadFiles(lb.FileOptions{Read: node.Reader(*file), Filters: l7.Check(filters)}); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s: ok (%s, %s, %s)\n", *file, plural(len(config.Listeners), "listener"),
			plural(len(config.Routes), "route"), plural(len(config.Pools), "pool"))
		return err
	}
	return c
}

// parse reads a document as everybody here does, workers included.
func parse(file string, text []byte) (*lb.Config, error) {
	return lb.Parse(text, lb.Options{File: file, Filters: l7.Check(filters)})
}
