package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// completeTime bounds a question for a completion: a shell waits for it.
const completeTime = time.Second

// completion is what cobra asks for the words of an argument.
type completion = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective)

// complete asks the daemon for the words of a command's only argument. A daemon
// that does not answer completes nothing.
func (c *ctl) complete(words func(context.Context, *admin.Client) ([]string, error)) completion {
	return func(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.words(word, words)
	}
}

func (c *ctl) words(word string, words func(context.Context, *admin.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completeTime)
	defer cancel()
	all, err := words(ctx, c.client())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var fit []string
	for _, w := range all {
		if strings.HasPrefix(w, word) {
			fit = append(fit, w)
		}
	}
	return fit, cobra.ShellCompDirectiveNoFileComp
}

// part asks for words that the status has.
func statusWords(of func(admin.Status) []string) func(context.Context, *admin.Client) ([]string, error) {
	return func(ctx context.Context, api *admin.Client) ([]string, error) {
		s, err := api.Status(ctx)
		return of(s), err
	}
}

// completeBackend knows the names of the running backends.
func (c *ctl) completeBackend(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return c.complete(func(ctx context.Context, api *admin.Client) ([]string, error) {
		all, err := api.Backends(ctx)
		var names []string
		for _, b := range all {
			names = append(names, b.ID+"\t"+b.State)
		}
		return names, err
	})(cmd, args, word)
}

func poolNames(suffix string) func(admin.Status) []string {
	return func(s admin.Status) []string {
		var names []string
		for _, p := range s.Pools {
			names = append(names, p.Name+suffix+"\t"+plural(p.Backends, "backend"))
		}
		return names
	}
}

// completePool completes a flag's value, whatever the arguments are.
func (c *ctl) completePool(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return c.words(word, statusWords(poolNames("")))
}

// completePoolPrefix completes the first half of a new backend's name.
func (c *ctl) completePoolPrefix(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, d := c.complete(statusWords(poolNames("/")))(cmd, args, word)
	return names, d | cobra.ShellCompDirectiveNoSpace
}

func (c *ctl) completeListener(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return c.words(word, statusWords(func(s admin.Status) []string {
		var names []string
		for _, l := range s.Listeners {
			names = append(names, l.Name+"\t"+l.Bind)
		}
		return names
	}))
}

func (c *ctl) completeWorker(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return c.words(word, statusWords(func(s admin.Status) []string {
		var names []string
		for _, w := range s.Workers {
			names = append(names, fmt.Sprintf("%s\tpid %d, %s", w.Name, w.PID, w.State))
		}
		return names
	}))
}

func (c *ctl) completeNode(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return c.complete(statusWords(func(s admin.Status) []string {
		var names []string
		for _, n := range s.Nodes {
			names = append(names, n.Name+"\t"+n.State)
		}
		return names
	}))(cmd, args, word)
}

func (c *ctl) completeGeneration(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return c.complete(func(ctx context.Context, api *admin.Client) ([]string, error) {
		all, err := api.History(ctx)
		var names []string
		for _, g := range all {
			names = append(names, g.Generation+"\t"+g.Action)
		}
		return names, err
	})(cmd, args, word)
}
