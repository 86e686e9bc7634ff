// Lbctl steers a Cirque load balancer over its admin socket.
//
// Results go to stdout, everything else to stderr; exit codes are in exit.go,
// each noun has a file of its own. Start at run.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/cirque-lb/lb/cmd/internal/manual"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run carries out one command line and gives its exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	c := &ctl{in: in, out: out, errs: errs}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	manual.Completion(root)
	err := root.ExecuteContext(ctx)
	if err != nil && !c.began {
		err = usage{err}
	}
	return c.explainFailure(err)
}
