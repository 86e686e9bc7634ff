package app

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l4"
)

// backendOptions is the command line of lbd agent.
type backendOptions struct {
	interfaces, vips, from []string
	mode, pins, runDir     string
	remove                 bool
}

func newAgent() *cobra.Command {
	var o backendOptions
	c := &cobra.Command{
		Use: "agent --interface NAME --vip ADDRESS --from NETWORK", Short: "Make this host a backend of L4 services", Args: usage(cobra.NoArgs),
		Long: `Make this host a backend of L4 services: what a node sends here inside of another
packet (forward: ipip and gue) is taken out again, the VIPs become local, and
nobody answers ARP for them. What serves listens on every address, or on the VIP
(IPv6: with IPV6_FREEBIND), and its replies go to the client directly.

The command sets that up and ends; it stays until --remove or a reboot, so run
it once per boot. Once more with other flags changes it in place.`,
		Example: `  lbd agent --interface eth0 --vip 192.0.2.10 --vip 2001:db8::10 --from 10.0.0.0/24
  lbd agent --interface eth0 --remove`,
	}
	f := c.Flags()
	f.StringSliceVarP(&o.interfaces, "interface", "i", nil, "where packets come in; may be repeated")
	f.StringSliceVar(&o.vips, "vip", nil, "an address of a service; may be repeated")
	f.StringSliceVar(&o.from, "from", nil, "the nodes' `network`; may be repeated. forward: l2 needs none")
	f.StringVar(&o.mode, "mode", "auto", "auto, native or generic, as fastpath.mode")
	f.StringVar(&o.pins, "pins", "/sys/fs/bpf/lbd/agent", "where the programs are kept")
	f.StringVar(&o.runDir, "run-dir", "/run/lbd-agent", "where the settings from before are kept")
	f.BoolVar(&o.remove, "remove", false, "take everything back")
	c.RunE = func(c *cobra.Command, _ []string) error { return o.run(c) }
	return c
}

func (o backendOptions) run(c *cobra.Command) error {
	options := l4.Options{
		Mode: lb.FastpathMode(o.mode), Required: true, Backend: true,
		Interfaces: o.interfaces, Pins: o.pins, RunDir: o.runDir,
	}
	if o.remove {
		if err := l4.Detach(options); err != nil {
			return coded{exitMissing, err}
		}
		fmt.Fprintln(c.OutOrStdout(), "removed", o.pins)
		return nil
	}
	s, err := o.steering()
	if err != nil {
		return coded{exitUsage, err}
	}
	d, err := l4.Open(options)
	if err != nil {
		return coded{exitMissing, err}
	}
	if err := errors.Join(d.Apply(s), d.Close()); err != nil {
		return err
	}
	for _, i := range d.Report().Interfaces {
		fmt.Fprintf(c.OutOrStdout(), "%s (%s): takes %s from %s\n", i.Name, i.Mode, strings.Join(o.vips, ", "), strings.Join(o.from, ", "))
	}
	return nil
}

// steering reads addresses and networks.
func (o backendOptions) steering() (s lb.Steering, err error) {
	switch lb.FastpathMode(o.mode) {
	case lb.FastpathAuto, lb.FastpathNative, lb.FastpathGeneric:
	default:
		return s, fmt.Errorf("--mode %s: say auto, native or generic", o.mode)
	}
	if len(o.interfaces) == 0 || len(o.vips) == 0 {
		return s, errors.New("say --interface and --vip; see lbd agent --help")
	}
	for _, text := range o.vips {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return s, fmt.Errorf("--vip %s is not an address", text)
		}
		s.VIPs = append(s.VIPs, lb.VIP{Addr: a.Unmap(), Protocol: lb.TCP}, lb.VIP{Addr: a.Unmap(), Protocol: lb.UDP})
	}
	for _, text := range o.from {
		p, err := netip.ParsePrefix(text)
		if a, single := netip.ParseAddr(text); single == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return s, fmt.Errorf("--from %s is not a network", text)
		}
		s.Sources = append(s.Sources, lb.SteeredSource{Prefix: p, Trusted: true})
	}
	return s, nil
}
