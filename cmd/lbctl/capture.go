package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

func (c *ctl) capture() *cobra.Command {
	var o admin.CaptureOrder
	var file string
	cmd := &cobra.Command{
		Use:   "capture [[tcp|udp] [ADDRESS:PORT] [>] ADDRESS:PORT]",
		Short: "Write packets of the fast path to a file, each with its verdict",
		Long: `Packets as they arrive, before the fast path changes them, as pcapng: Wireshark
and tcpdump read it. Each has its verdict, and the reason as a comment. One end
names the VIP, two ends a flow; port 0 is any. What is in a tunnel of another
node is found by what it holds; ICMP to the VIP belongs to it. One capture runs
at a time, and none without bounds.`,
		Example: `  lbctl capture 192.0.2.10:80 -w web.pcapng
  lbctl capture tcp 198.51.100.7:40000 192.0.2.10:80 -w flow.pcapng
  lbctl capture --verdict drop --seconds 60 -w - | tcpdump -nr -`,
	}
	f := cmd.Flags()
	f.StringVarP(&file, "write", "w", "", "the file, or - for standard output")
	f.IntVarP(&o.Packets, "packets", "c", 1000, "how many at most")
	f.IntVar(&o.Seconds, "seconds", 10, "how long at most")
	f.IntVarP(&o.Snaplen, "snaplen", "s", 256, "bytes of each packet, 64 to 2048")
	f.StringVar(&o.Verdict, "verdict", "", "only those that end so: drop, pass, tx or redirect")
	f.StringVar(&o.Reason, "reason", "", "only those that leave by this reason, such as xdp_no_owner")
	cmd.MarkFlagRequired("write")
	cmd.RegisterFlagCompletionFunc("verdict", cobra.FixedCompletions([]string{"drop", "pass", "tx", "redirect"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Flow = strings.Join(args, " ")
		w, end, err := c.captureTo(file)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		done, err := c.client().Capture(ctx, o, w)
		if err := end(err == nil); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		c.say("%s", captureSaid(done, ctx.Err() != nil))
		return nil
	}
	return cmd
}

func captureSaid(done admin.CaptureDone, interrupted bool) string {
	if interrupted {
		return "interrupted: the file has what came until then"
	}
	text := plural(int(done.Packets), "packet")
	if done.Lost > 0 {
		text += fmt.Sprintf("; %d more were lost, they came too fast", done.Lost)
	}
	return text
}

// captureTo opens where a capture goes; end closes it, and takes away what an
// error left empty.
func (c *ctl) captureTo(file string) (w io.Writer, end func(good bool) error, err error) {
	if file == "-" {
		if c.terminal(c.out) {
			return nil, nil, usage{fmt.Errorf("a terminal shows no packets: -w FILE, or | tcpdump -nr -")}
		}
		return c.out, func(bool) error { return nil }, nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return f, func(good bool) error {
		if !good {
			os.Remove(file)
		}
		return f.Close()
	}, nil
}
