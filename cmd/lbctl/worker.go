package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

func (c *ctl) worker() *cobra.Command {
	return noun("worker", "The processes that serve requests",
		list(c, "Workers with their slots and connections", func(s admin.Status) (any, *table) { return s.Workers, workerTable(s.Workers) }),
		c.drain("worker", c.workerDrains()), c.undrain(c.workerDrains()), c.workerCrashes())
}

func (c *ctl) workerDrains() drainable {
	return drainable{
		arg: "WORKER", drain: "Have the other workers serve in place of one, which finishes and ends",
		long: `Have the other workers of the addressed node serve in place of one: they accept on
its slots, new connections are steered to them, and what can be moved of its live
ones goes on there. The rest is told to go and has until drain.timeout; then the
process ends. Its place stays empty until the order is taken back, or until an
upgrade; the last worker that serves is not drained.`,
		undrain: "Take a drain back: another process takes the place", end: "has ended", again: "starts again", complete: c.completeWorker,
		order: func(ctx context.Context, name string, drain bool, a admin.Ask) (any, error) {
			o := admin.WorkerOrder{Name: name, Drain: drain}
			return o, c.client().OrderWorker(ctx, o, a)
		},
		left: func(s admin.Status, name string) (int, bool) {
			for _, w := range s.Workers {
				if w.Name == name {
					return w.Connections, w.State == "drained"
				}
			}
			return 0, true
		},
	}
}

func (c *ctl) workerCrashes() *cobra.Command {
	return &cobra.Command{Use: "crashes [PID]", Short: "Workers that ended by themselves: how, their last words, their last requests", Args: cobra.MaximumNArgs(1),
		Long: `List the last workers that ended by themselves, newest first; with a PID show all
that is known of one: what the runtime said, and the last requests of each thread
with those that were under way. The kernel's signals are told, too; no core file is
needed for any of it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := ask(cmd)
			defer cancel()
			all, err := c.client().Crashes(ctx)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return c.show(all, crashTable(all))
			}
			for _, one := range all {
				if strconv.Itoa(one.PID) == args[0] {
					return c.showCrash(one)
				}
			}
			return &admin.Error{Status: 404, Code: admin.CodeNotFound, Detail: "no worker with pid " + args[0] + " is known to have crashed", Hint: "`lbctl worker crashes` lists them"}
		}}
}

func crashTable(all []lb.Crash) *table {
	t := &table{narrow: 7, heads: []string{"TIME", "WORKER", "PID", "HOW", "SAID", "REQUESTS", "UNDER WAY", "FAILED", "VERSION", "LIVED"}}
	for _, x := range all {
		said, _, _ := strings.Cut(x.Said, "\n")
		t.add(strconv.Itoa(x.PID), stamp(x.Time), x.Worker, x.PID, x.How, orDash(said), x.Begun, x.Begun-x.Ended, x.Failed, x.Version, x.Time.Sub(x.Started).Round(time.Second))
	}
	return t
}

// showCrash is one crash at length.
func (c *ctl) showCrash(x lb.Crash) error {
	if c.format == "table" || c.format == "wide" {
		fmt.Fprintf(c.out, "worker %s (pid %d, lbd %s), after %v: %s\n%d requests, %d under way, %d failed\n\n", x.Worker, x.PID, x.Version,
			x.Time.Sub(x.Started).Round(time.Second), x.How, x.Begun, x.Begun-x.Ended, x.Failed)
	}
	t := &table{heads: []string{"TIME", "THREAD", "LISTENER", "ROUTE", "REQUEST", "STATUS", "TOOK"}}
	for _, r := range x.Requests {
		status, took := any(r.Status), r.Took.Round(10*time.Microsecond).String()
		if r.UnderWay {
			status, took = "under way", "-"
		}
		t.add(r.Path, stamp(r.Time), r.Thread, r.Listener, r.Route, r.Method+" "+r.Path, status, took)
	}
	if err := c.show(x, t); err != nil || x.Said == "" || c.format != "table" && c.format != "wide" {
		return err
	}
	_, err := fmt.Fprintf(c.out, "\n%s\n", strings.TrimRight(x.Said, "\n"))
	return err
}
