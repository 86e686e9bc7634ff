package main

import (
	"fmt"
	"time"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) cert() *cobra.Command {
	return noun("cert", "The certificates that clients and backends are shown", &cobra.Command{
		Use: "list", Short: "Certificates with their names and ends", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			all, err := c.client().Certificates(ctx)
			if err != nil {
				return err
			}
			return c.show(all, certTable(all))
		}})
}

func certTable(all []admin.Certificate) *table {
	t := &table{narrow: 5, heads: []string{"USED BY", "NAMES", "ENDS", "LEFT", "FILE", "DEFAULT", "KEY", "SUBJECT", "ISSUER", "SERIAL", "BEGINS"}}
	for _, x := range all {
		user, byDefault := "listener "+x.Listener, ""
		if x.Pool != "" {
			user = "pool " + x.Pool
		}
		if x.Default {
			byDefault = "yes"
		}
		t.add(x.File, user, someOf(x.Names), x.Ends.UTC().Format(time.DateOnly), left(x.Ends.Sub(now())), x.File, byDefault, x.Key, x.Subject, x.Issuer, x.Serial, x.Begins.UTC().Format(time.DateOnly))
	}
	return t
}

// left is how long a certificate is good for.
func left(d time.Duration) string {
	switch {
	case d < 0:
		return "ended"
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
