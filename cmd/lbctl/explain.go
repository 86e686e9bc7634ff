package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
)

func (c *ctl) explain() *cobra.Command {
	var q admin.Question
	var headers []string
	cmd := &cobra.Command{
		Use: "explain URL | [tcp] ADDRESS:PORT [>] ADDRESS:PORT", Args: cobra.MinimumNArgs(1),
		Short: "Where a request or a flow goes, and why not elsewhere",
		Long: `Where a request goes: which listener, route, filters, pool and backends, and why
not the others. Or where a flow goes: which VIP, row, owners and slot. With
--from both. Nothing is sent.`,
		Example: `  lbctl explain http://shop.example/cart --header x-canary=1
  lbctl explain tcp 198.51.100.7:40000 192.0.2.10:80`,
	}
	cmd.Flags().StringVarP(&q.Method, "method", "X", "GET", "the request's method")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "a field, NAME=VALUE; may be repeated")
	cmd.Flags().StringVar(&q.Listener, "listener", "", "the listener it comes in by (default: by scheme and port)")
	cmd.Flags().StringVar(&q.From, "from", "", "the client's ADDRESS:PORT")
	cmd.RegisterFlagCompletionFunc("listener", c.completeListener)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if strings.Contains(args[0], "://") {
			q.URL = args[0]
		} else {
			q.Tuple = strings.Join(args, " ")
		}
		for _, h := range headers {
			name, value, ok := strings.Cut(h, "=")
			if !ok {
				return usage{fmt.Errorf("--header %s: say NAME=VALUE", h)}
			}
			if q.Header == nil {
				q.Header = map[string]string{}
			}
			q.Header[name] = value
		}
		ctx, cancel := ask(cmd)
		defer cancel()
		e, err := c.client().Explain(ctx, q)
		if err != nil {
			return err
		}
		if c.format != "table" && c.format != "wide" {
			return c.show(e, &table{names: []string{e.Verdict}})
		}
		writeExplanation(c.out, e)
		return nil
	}
	return cmd
}

func writeExplanation(w io.Writer, e admin.Explanation) {
	if e.Listener != "" {
		fmt.Fprintf(w, "listener  %s  %s  %s\n", e.Listener, e.Bind, e.Scope)
	}
	if p := e.Packet; p != nil {
		writePacket(w, *p)
	}
	for _, r := range e.Routes {
		mark := " "
		if r.Matches {
			mark = "*"
		}
		fmt.Fprintf(w, "route %s%-3d line %-4d %s: %s\n", mark, r.Index, r.Line, cell(r.Match), cell(r.Why))
	}
	if len(e.Filters) > 0 {
		fmt.Fprintf(w, "filters   %s\n", strings.Join(e.Filters, ", "))
	}
	if e.Target != "" {
		fmt.Fprintf(w, "target    %s\n", e.Target)
	}
	for _, b := range e.Backends {
		mark := " "
		if b.Eligible {
			mark = "*"
		}
		fmt.Fprintf(w, "backend %s %s  weight %d  %s\n", mark, b.ID, b.Weight, cell(b.Why))
	}
	fmt.Fprintln(w, e.Verdict)
}

func writePacket(w io.Writer, p admin.PacketWay) {
	fmt.Fprintf(w, "flow      %s\n", p.Tuple)
	if p.VIP != "" {
		fmt.Fprintf(w, "vip       %s\n", p.VIP)
	}
	if p.Row >= 0 {
		fmt.Fprintf(w, "row       %d  owners %s\n", p.Row, strings.Join(p.Chain, " > "))
	}
	if p.Slot >= 0 {
		fmt.Fprintf(w, "slot      %d\n", p.Slot)
	}
	for _, why := range p.Why {
		fmt.Fprintf(w, "          %s\n", cell(why))
	}
}
