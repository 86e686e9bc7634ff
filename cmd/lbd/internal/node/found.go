package node

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// How discovered backends get into the configuration.
const (
	firstAnswer = 2 * time.Second // that a change waits for a source nobody asked before
	refindEvery = time.Second     // at most, however often sources change
	refindAgain = 5 * time.Second // after the workers refused what was found
)

// finding is how far the loop is with backends that were found. Owned by run.
type finding struct {
	due   bool // answers may have changed
	busy  bool // a change of them is under way
	after time.Time
	err   error // why the last one came to nothing
}

// sources lists what a configuration discovers from, each source once.
func sources(c *lb.Config) []lb.Discovery {
	var all []lb.Discovery
	seen := map[string]bool{}
	for _, p := range c.Pools {
		if p.Discover != nil && !seen[p.Discover.String()] {
			seen[p.Discover.String()] = true
			all = append(all, *p.Discover)
		}
	}
	return all
}

// follow tells the discovery whom to ask.
func (n *Node) follow(c *lb.Config) {
	if n.o.Discovery != nil {
		n.o.Discovery.Follow(sources(c))
	}
}

// find completes a configuration with what its sources found. A source that
// has no answer yet gets a moment to give one: else a new pool would begin by
// refusing requests. Without any answer the pool is as the document has it.
func (n *Node) find(ctx context.Context, r *running) {
	r.config, r.found = r.listed, nil
	if n.o.Discovery == nil {
		return
	}
	all := sources(r.listed)
	fresh := slices.DeleteFunc(slices.Clone(all), func(d lb.Discovery) bool { return n.o.Discovery.Found(d) != nil })
	if len(fresh) > 0 {
		ctx, cancel := context.WithTimeout(ctx, firstAnswer)
		defer cancel()
		n.o.Discovery.Await(ctx, fresh)
	}
	n.merge(r)
}

// merge puts the sources' last good answers into the configuration.
func (n *Node) merge(r *running) {
	found := map[string][]lb.Backend{}
	for _, p := range r.listed.Pools {
		if p.Discover == nil {
			continue
		}
		if backends := n.o.Discovery.Found(*p.Discover); len(backends) > 0 {
			found[p.Name] = backends
		}
	}
	r.config, r.found = r.listed, nil
	if len(found) > 0 {
		r.config, r.found = r.listed.WithFound(found), lb.EncodeFound(found)
	}
}

// discovered gives the channel of changes; nil without a discovery.
func (n *Node) discovered() <-chan struct{} {
	if n.o.Discovery == nil {
		return nil
	}
	return n.o.Discovery.Changed()
}

// tickFound starts to bring in what was found, off the loop, one change at a
// time and not too often.
func (n *Node) tickFound() {
	f := &n.finding
	now := n.o.Now()
	if !f.due || f.busy || n.told == nil || now.Before(f.after) {
		return
	}
	f.due, f.busy, f.after = false, true, now.Add(refindEvery)
	n.group.Go(func() {
		err := n.refind()
		n.do(func() {
			f.busy, f.err = false, err
			if err != nil {
				f.due, f.after = true, n.o.Now().Add(refindAgain)
			}
		})
	})
}

// refind gives the workers the running configuration with the sources' newest
// answers. The document is the same, and so is the generation.
func (n *Node) refind() error {
	ctx, cancel := context.WithTimeout(context.Background(), applyTime)
	defer cancel()
	if err := n.changes.enter(ctx); err != nil {
		return err
	}
	defer n.changes.leave()
	now := n.snapshot.Load().running
	then := now
	n.merge(&then)
	defer n.keepFound(then.listed)
	if bytes.Equal(then.found, now.found) {
		return nil
	}
	if _, err := n.switchTo(ctx, then, edit{action: "discover", Asked: Asked{By: "lbd"}}); err != nil {
		return err
	}
	for _, e := range foundEvents(now.config, then.config) {
		n.event(e)
	}
	return nil
}

// keepFound writes the answers down for the next life. A disk that takes
// nothing is no reason not to use them now.
func (n *Node) keepFound(c *lb.Config) {
	all := map[string][]lb.Backend{}
	for _, d := range sources(c) {
		if found := n.o.Discovery.Found(d); found != nil {
			all[d.String()] = found
		}
	}
	if maps.EqualFunc(all, n.keptFound, slices.Equal[[]lb.Backend]) {
		return
	}
	if err := n.store.writeFound(all); err != nil {
		n.log.Warn("keep the backends that were found", "err", err)
		return
	}
	n.keptFound = all
}

// maxFoundEvents bounds what one change of many pools says.
const maxFoundEvents = 20

// foundEvents says which backends came and went.
func foundEvents(old, then *lb.Config) []lb.Event {
	var all []lb.Event
	for _, p := range then.Pools {
		was := old.Pool(p.Name)
		if p.Discover == nil || was == nil || len(all) == maxFoundEvents {
			continue
		}
		came, went := missingFrom(was, p), missingFrom(p, was)
		if len(came)+len(went) == 0 {
			continue
		}
		var parts []string
		if came != nil {
			parts = append(parts, "+ "+someOf(came))
		}
		if went != nil {
			parts = append(parts, "- "+someOf(went))
		}
		all = append(all, lb.Event{Kind: "pool.discovered", Subject: p.Name, Detail: fmt.Sprintf("%s by %s", strings.Join(parts, " "), p.Discover)})
	}
	return all
}

// missingFrom lists the backends of b that a does not have.
func missingFrom(a, b *lb.Pool) []string {
	has := map[string]bool{}
	for _, x := range a.Backends {
		has[x.Address] = true
	}
	var all []string
	for _, x := range b.Backends {
		if !has[x.Address] {
			all = append(all, x.Address)
		}
	}
	return all
}

// sourceProblems lists the sources that fail, and what holds instead.
func sourceProblems(all []Source, f finding) []Problem {
	var out []Problem
	for _, s := range all {
		if s.Err == nil {
			continue
		}
		if len(out) == maxNamed {
			return append(out, Problem{Subject: "discovery", Text: "more sources fail", Do: "`lbctl pool list` shows them"})
		}
		kept := "it never answered; its pools have the listed backends only"
		if s.Backends > 0 {
			kept = fmt.Sprintf("its last answer holds: %s", plural(s.Backends, "backend"))
		}
		out = append(out, Problem{Subject: "discovery " + s.Name,
			Text: fmt.Sprintf("fails since %s: %s; %s", s.Failing.UTC().Format(time.RFC3339), firstLine(s.Err.Error()), kept), Do: "mend the source; it is asked again by itself"})
	}
	if f.err != nil {
		out = append(out, Problem{Subject: "discovery", Text: "the workers refuse what was found: " + firstLine(f.err.Error()), Do: "look at the log; it is tried again by itself"})
	}
	return out
}
