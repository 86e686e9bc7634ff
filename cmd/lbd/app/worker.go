package app

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
	"github.com/cirque-lb/lb/l7"
)

// newWorker is the command that the supervisor starts its workers with.
func newWorker() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Hidden: true, DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			child := worker.Child{Version: thisVersion(), Parse: parse, New: newProxy}
			os.Exit(child.Main(args))
		},
	}
}

func newProxy(s worker.Start) (worker.Server, error) {
	p, err := l7.New(l7.Options{Threads: s.Threads, Filters: filters, Access: s.Access, Log: s.Log, Flight: s.Flight})
	return proxy{p}, err
}

// proxy is an l7.Proxy in the words of package worker.
type proxy struct{ *l7.Proxy }

// Prepare builds a snapshot; commit switches it in. Backends that the
// supervisor found come with the files.
func (p proxy) Prepare(generation uint64, c *lb.Config, files map[string][]byte) (func(), error) {
	found, err := lb.DecodeFound(files[lb.FoundFile])
	if err != nil {
		return nil, err
	}
	s, err := p.Proxy.Prepare(generation, c.WithFound(found), files)
	if err != nil {
		return nil, err
	}
	return func() { p.Commit(s) }, nil
}
