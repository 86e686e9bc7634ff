package main

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// clusterKey is a new key.
type clusterKey struct {
	Key string `json:"key"`
}

// keyOrdered is an order that was carried out; the key is nobody's business.
type keyOrdered struct {
	Action string `json:"action"`
}

func (c *ctl) cluster() *cobra.Command {
	key := noun("key", "The cluster's secret", c.keyList(), c.keyAdd(), c.keyOrder("use", "Sign with another key, once every node has it"),
		c.keyOrder("remove", "Forget a key, once no node signs with it"), &cobra.Command{
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

func (c *ctl) keyList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "Which keys the nodes have, by name; the first one signs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			all, err := c.client().Keys(ctx)
			if err != nil {
				return err
			}
			t := &table{heads: []string{"NODE", "SIGNS WITH", "OPENS, TOO", "STATE"}, narrow: 4}
			for _, r := range all {
				signs, opens, state := "-", "-", "away"
				if len(r.Keys) > 0 {
					signs, opens = r.Keys[0], cmp.Or(strings.Join(r.Keys[1:], " "), "-")
				}
				if r.Alive {
					state = "alive"
				}
				t.add(r.Node, r.Node, signs, opens, state)
			}
			return c.show(all, t)
		}}
}

func (c *ctl) keyAdd() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "add -f FILE", Short: "Have a node open what a new key signs", Args: cobra.NoArgs,
		Long: `Add a key to the addressed node's cluster.key_file, without a restart. To rotate:
add the new key on every node, then use it on every node, then remove the old one
on every node. lbctl cluster key list shows how far that is. The key comes from a
file or, with -f -, from stdin: other users of the host see arguments.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := c.read(file)
			if err != nil {
				return err
			}
			return c.changeKey(cmd, admin.KeyOrder{Action: "add", Key: strings.TrimSpace(string(text))}, "the key is added")
		}}
	fromFile(cmd, &file)
	return cmd
}

func (c *ctl) keyOrder(action, short string) *cobra.Command {
	o := admin.KeyOrder{Action: action}
	cmd := &cobra.Command{Use: action + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Key = args[0]
			return c.changeKey(cmd, o, map[string]string{"use": "it signs", "remove": "it is forgotten"}[action])
		}}
	cmd.Flags().BoolVar(&o.Force, "force", false, "although other nodes would be left behind")
	return cmd
}

func (c *ctl) changeKey(cmd *cobra.Command, o admin.KeyOrder, done string) error {
	ctx, cancel := ask(cmd)
	defer cancel()
	if err := c.client().ChangeKey(ctx, o, admin.Ask{}); err != nil {
		return err
	}
	return c.verdict(keyOrdered{o.Action}, o.Action, "%s", done)
}
