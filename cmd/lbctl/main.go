// Lbctl steers a Cirque load balancer over its admin socket.
//
// Results go to stdout, everything else to stderr; exit codes are in exit.go,
// each noun has a file of its own. Start at run.
package main

import (
	"cmp"
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
	results := &sink{Writer: out}
	c := &ctl{in: in, out: results, errs: errs}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(results)
	root.SetErr(errs)
	manual.Completion(root)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err != nil && !c.began:
		err = usage{err}
	case err == nil:
		err = results.err
	}
	return c.explainFailure(cmd, err)
}

// sink remembers that something could not be written, so that no command has to
// look after each line whether it is on a disk that is full.
type sink struct {
	io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	s.err = cmp.Or(s.err, err)
	return n, err
}
