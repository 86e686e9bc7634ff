package node

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cirque-lb/lb"
)

// applyTime bounds how long the workers may take to build a configuration.
const applyTime = time.Minute

// Applied is the verdict on an accepted change.
type Applied struct {
	Generation Generation
	Changed    bool
	DryRun     bool
	Changes    []Difference
	Notes      []string // what takes a restart, what was ignored
	Workers    []Built
	Trial      *Trial    // nil: it stays
	Nodes      []Verdict // of the others in the cluster
	shared     bool      // the cluster gets it
}

// Built is what one worker answered to a change.
type Built struct {
	Worker string
	PID    int
	Took   time.Duration
	Err    error // nil: it serves the change now
}

// edit is a change on its way.
type edit struct {
	Asked
	action string    // for the history: reload, apply…
	tries  bool      // it may be on trial
	ends   bool      // it ends a trial
	keep   bool      // refuse it when what is served would change
	from   *Document // the cluster's, which it brings here
	// next makes the new text from the one in force.
	next func(running) (source, error)
}

// boot makes the workers serve the first configuration. The same text as
// before keeps its generation: workers that were adopted serve it already.
func (n *Node) boot(ctx context.Context) error {
	var err error
	// What cannot be read now is as the workers have it that still serve.
	n.running, err = n.withFiles(n.running, n.o.Fleet.Adopted())
	if !n.running.listed.HasFiles(n.running.contents) {
		return err
	}
	n.noteFiles(err)
	last := n.o.State.current
	n.running.source = n.sealed(n.running.source)
	n.follow(n.running.listed)
	n.find(ctx, &n.running)
	same := last.Generation.Counter > 0 && n.running.source.same(last.source())
	if !same {
		n.running.generation = n.next(last.Generation)
	}
	n.running.since = n.o.Now()
	action := "start"
	if back := n.o.State.reverted; back != nil {
		action = revertAction(*back)
	}
	r := n.record(n.running, edit{action: action, Asked: Asked{By: "lbd"}})
	_, err = n.apply(ctx, n.running, n.overlay.drained(), func() error {
		if same {
			return nil
		}
		// A read-only disk is told, and does not keep a balancer from serving.
		n.saving = n.store.commit(r, n.running.trial)
		return nil
	})
	if err != nil {
		return err
	}
	n.reload = Reload{Time: n.o.Now(), OK: n.o.State.refused == nil}
	if n.o.State.refused != nil {
		n.reload.Text = n.o.State.refused.Error()
		n.log.Error("the file is refused; the last generation that ran is used", "file", n.running.file, "generation", n.running.generation, "error", n.reload.Text)
	}
	for _, line := range n.loading {
		n.log.Error(line)
	}
	if n.o.State.reverted != nil {
		n.event(lb.Event{Kind: "config.reverted", Subject: n.running.generation.String(), Detail: action})
	}
	n.event(lb.Event{Kind: "config.start", Subject: n.running.generation.String(), Detail: "objects are owned by the " + string(n.running.owner)})
	return nil
}

// next is the generation after g, made here.
func (n *Node) next(g Generation) Generation {
	return Generation{Counter: n.ahead(g.Counter) + 1, Node: n.booted.Node.Name}
}

func (r Record) source() source {
	s := source{owner: r.Owner, file: r.File, settings: []byte(r.Settings)}
	if r.Owner == OwnedDocument {
		s.objects, s.edition = []byte(r.Objects), r.Edition
		if s.edition.Generation.IsZero() {
			s.edition = Edition{Generation: r.Generation, Time: r.Time, By: r.By, Action: r.Action} // of a version that had none
		}
	}
	return s
}

func (n *Node) record(r running, e edit) Record {
	return Record{
		Generation: r.generation, Time: n.o.Now().UTC(), By: e.By, Action: e.action,
		Owner: r.owner, File: r.file, Settings: string(r.settings), Objects: string(r.objects), Files: r.files, Edition: r.edition,
	}
}

// apply hands a configuration to the workers. Whoever calls it keeps run from
// using sockets meanwhile.
func (n *Node) apply(ctx context.Context, r running, drained []string, persist func() error) ([]Built, error) {
	// Whoever asked may go away; a change is finished or undone, never left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTime)
	defer cancel()
	files := r.contents
	if r.found != nil {
		files = maps.Clone(files)
		files[lb.FoundFile] = r.found
	}
	var mu sync.Mutex // guards built
	var built []Built
	err := n.o.Fleet.Apply(ctx, Update{
		Generation: r.generation.Counter, File: r.file, Document: r.document(),
		Files: files, Config: r.config, Drained: drained, Persist: persist,
		Built: func(worker string, pid int, took time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			built = append(built, Built{worker, pid, took, err})
		},
	})
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(built, func(a, b Built) int { return strings.Compare(a.Worker, b.Worker) })
	return built, err
}

// change carries one edit through, and of one that the cluster shares gathers
// what the other nodes make of it.
func (n *Node) change(ctx context.Context, e edit) (Applied, error) {
	done, err := n.changeHere(ctx, e)
	if err == nil && done.shared {
		done.Nodes = n.verdicts(ctx, done.Generation)
	}
	return done, err
}

// changeHere does text, validation, files, workers, disk, switch. Any error
// before the switch leaves the running generation untouched.
func (n *Node) changeHere(ctx context.Context, e edit) (Applied, error) {
	if err := n.awaitServing(ctx); err != nil {
		return Applied{}, err
	}
	if err := n.changes.enter(ctx); err != nil {
		return Applied{}, err
	}
	defer n.changes.leave()
	now := n.snapshot.Load().running
	if err := n.fits(e, now); err != nil {
		return Applied{}, err
	}
	then, err := n.build(ctx, now, e)
	if err != nil {
		n.refused(e, err)
		n.follow(now.listed)
		return Applied{}, err
	}
	done := Applied{Generation: now.generation, DryRun: e.Dry, Changes: n.differences(now.config, then.config), Trial: then.trial}
	done.Notes = restartNotes(n.booted, then.config)
	same := then.source.same(now.source) && then.files == now.files
	switch {
	case e.keep && !e.Dry && len(done.Changes) > 0:
		n.follow(now.listed)
		return Applied{}, differs(now, done.Changes)
	case e.Dry, same && (now.trial == nil || then.trial == now.trial):
		done.Changed, done.Trial = !same, now.trial
		n.accepted(e)
		n.follow(now.listed)
		return done, nil
	}
	n.name(now, &then, e)
	if done.Workers, err = n.switchTo(ctx, then, e); err != nil {
		n.refused(e, err)
		n.follow(now.listed)
		return Applied{}, err
	}
	done.Generation, done.Changed = then.generation, true
	done.shared = n.o.Cluster != nil && e.from == nil && then.trial == nil && then.edition.Generation == then.generation
	n.log.Info("configuration changed", "generation", then.generation, "action", e.action, "by", e.By, "differences", len(done.Changes))
	return done, nil
}

// fits refuses an edit that began with something else than what runs, or than
// what the cluster has by now.
func (n *Node) fits(e edit, now running) error {
	if e.Match == "" {
		return nil
	}
	if n.o.Cluster != nil && now.owner == OwnedDocument {
		if d, ok := n.o.Cluster.Document(); ok && d.Generation.Compare(now.edition.Generation) > 0 && now.trial == nil {
			return e.fits(d.Generation)
		}
	}
	if now.owner == OwnedDocument && e.Match == now.edition.Generation.String() {
		return nil
	}
	return e.fits(now.generation)
}

// name gives a change its generation: the document's, when it brings one here
// and that is newer than what ran; and makes an edition of an edit.
func (n *Node) name(now running, then *running, e edit) {
	then.generation = n.next(now.generation)
	if e.from != nil && e.from.Generation.Compare(now.generation) > 0 {
		then.generation = e.from.Generation
	}
	same := then.edition.Generation == now.edition.Generation && then.owner == now.owner
	switch {
	case e.from != nil:
	case then.owner != OwnedDocument:
		then.edition = Edition{}
	case then.edition.Generation.IsZero(), same && !bytes.Equal(then.objects, now.objects):
		n.newEdition(now, then, e)
	}
}

// differs refuses an edit that was to keep what is served.
func differs(now running, changes []Difference) error {
	var some []string
	for _, c := range changes {
		some = append(some, c.String())
	}
	return fail(Conflict, fmt.Sprintf("`lbctl config show` is what runs: put it into %s; or --discard it", now.file),
		"what %s says is not what runs (%s): %s", now.file, plural(len(changes), "difference"), someOf(some))
}

func (n *Node) awaitServing(ctx context.Context) error {
	select {
	case <-n.serving:
		return nil
	case <-n.stopped:
		return fail(Busy, "", "lbd is stopping")
	case <-ctx.Done():
		return because(ctx.Err(), Busy, "try again in a moment", "lbd is starting")
	}
}

// build makes a configuration of the edit, whole or not at all.
func (n *Node) build(ctx context.Context, now running, e edit) (then running, err error) {
	then = running{since: n.o.Now()}
	if then.source, err = e.next(now); err != nil {
		return then, err
	}
	if then.trial, err = e.begins(now, n.o.Now()); err != nil {
		return then, err
	}
	if then.listed, err = then.source.parse(n.o.State.filters); err != nil {
		return then, &Error{Kind: Refused, Text: refusal(err, now.generation), Err: err}
	}
	if then.listed.Node.Name != n.booted.Node.Name || then.listed.Node.DataDir != n.booted.Node.DataDir {
		return then, fail(Refused, "restart lbd to change them", "node.name and node.data_dir cannot change while lbd runs. %s", unchanged(now.generation))
	}
	if then, err = n.withFiles(then, now.contents); err != nil {
		return then, &Error{Kind: Refused, Text: refusal(err, now.generation), Err: err}
	}
	n.find(ctx, &then)
	return then, nil
}

// switchTo has the workers build, the disk keep and the loop use a
// configuration. One of the generation that runs needs no keeping.
func (n *Node) switchTo(ctx context.Context, then running, e edit) ([]Built, error) {
	now := n.snapshot.Load().running
	var unsaved error
	// Until run uses the new configuration, too: no steering of its sockets by
	// the VIPs of the old one.
	n.sockets.Lock()
	release := sync.OnceFunc(n.sockets.Unlock)
	defer n.wake() // steering may have waited
	defer release()
	built, err := n.apply(ctx, then, n.snapshot.Load().Overlay.drained(), func() error {
		if then.generation != now.generation {
			unsaved = n.store.commit(n.record(then, e), then.trial)
		}
		return unsaved
	})
	switch {
	case unsaved != nil:
		n.unwritten(unsaved)
		return built, &Error{Kind: Unwritable, Text: fmt.Sprintf("the change cannot be kept: %v. %s", unsaved, unchanged(now.generation)), Hint: writeHint, Err: unsaved}
	case err != nil:
		return built, &Error{Kind: Unbuilt, Text: fmt.Sprintf("the workers refuse it: %v. %s", strings.TrimRight(err.Error(), "."), unchanged(now.generation)), Err: err, Workers: built}
	}
	return built, n.do(func() {
		release()
		n.running = then
		n.paths.force = true
		n.follow(then.listed)
		if then.files != now.files {
			n.probing = nil // how backends are reached over TLS may have changed
		}
		if then.generation == now.generation {
			return
		}
		n.saving, n.loading, n.disk.err = nil, nil, nil // the disk is well again
		n.noteFiles(nil)
		n.acceptedHere(e)
		n.event(e.event(then.generation))
		if then.trial != nil && now.trial == nil {
			n.event(lb.Event{Kind: "config.trial", Subject: then.generation.String(), Detail: fmt.Sprintf("%s returns at %s unless it is confirmed", then.trial.Back, clock(then.trial.Until))})
		}
	})
}

func (e edit) event(g Generation) lb.Event {
	kind := "config.applied"
	switch {
	case e.from != nil:
		kind = "config.replicated"
	case strings.HasPrefix(e.action, "revert"):
		kind = "config.reverted"
	}
	return lb.Event{Kind: kind, Subject: g.String(), Detail: e.action + " by " + e.By}
}

// refused records that an edit came to nothing. Only the file's verdict stays
// in the status: whoever sent another edit has got the answer.
func (n *Node) refused(e edit, err error) {
	if e.from != nil {
		return // that is drift
	}
	n.event(lb.Event{Kind: "config.refused", Subject: e.action, Detail: err.Error()})
	if e.action != reloadAction || e.Dry {
		return
	}
	n.do(func() { n.reload = Reload{Time: n.o.Now(), Text: err.Error()} })
}

func (n *Node) accepted(e edit) {
	if e.action == reloadAction && !e.Dry {
		n.do(func() { n.acceptedHere(e) })
	}
}

func (n *Node) acceptedHere(e edit) {
	if e.action == reloadAction {
		n.reload = Reload{Time: n.o.Now(), OK: true}
	}
}

// restartNotes names the settings that a running lbd does not change.
func restartNotes(booted, then *lb.Config) []string {
	var changed []string
	for _, s := range []struct {
		name string
		a, b any
	}{
		{"node", booted.Node, then.Node},
		{"fastpath", booted.Fastpath, then.Fastpath},
		{"cluster", booted.Cluster, then.Cluster},
		{"admin", booted.Admin, then.Admin},
	} {
		if !reflect.DeepEqual(s.a, s.b) {
			changed = append(changed, s.name)
		}
	}
	if changed == nil {
		return nil
	}
	return []string{strings.Join(changed, ", ") + ": these settings take effect when lbd restarts"}
}
