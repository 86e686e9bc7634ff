package main

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/spf13/cobra"
)

// clusterKey is a new key.
type clusterKey struct {
	Key string `json:"key"`
}

func (c *ctl) cluster() *cobra.Command {
	key := noun("key", "The cluster's secret", &cobra.Command{
		Use: "new", Short: "Print a new key for cluster.key_file", Args: cobra.NoArgs,
		Long: `Print a key for cluster.key_file: 32 bytes in hex, one line. While a key is
being rotated the file has two lines; the first one signs.`,
		RunE: func(*cobra.Command, []string) error {
			var k [32]byte
			rand.Read(k[:]) // never fails
			return c.verdict(clusterKey{hex.EncodeToString(k[:])}, hex.EncodeToString(k[:]), "%x", k)
		},
	})
	return noun("cluster", "What the nodes share", key)
}
