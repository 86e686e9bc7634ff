package node

import (
	"context"
	"fmt"
	"reflect"
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
}

// edit is a change on its way.
type edit struct {
	action string // for the history: reload, apply…
	by     string // who asks
	match  string // the generation the edit began with; "": any
	dry    bool
	// next makes the new text from the one in force.
	next func(running) (source, error)
}

// boot makes the workers serve the first configuration. The same text as
// before keeps its generation: workers that were adopted serve it already.
func (n *Node) boot(ctx context.Context) error {
	files, err := readFiles(n.running.config)
	if err != nil {
		return err
	}
	last := n.o.State.current
	n.running.files = digest(files)
	same := last.Generation.Counter > 0 && n.running.source.same(last.source()) && n.running.files == last.Files
	if !same {
		n.running.generation = n.next(last.Generation)
	}
	n.running.since = n.o.Now()
	r := n.record(n.running, edit{action: "start", by: "lbd"})
	err = n.apply(ctx, n.running, files, func() error {
		if same {
			return nil
		}
		// A read-only disk is told, and does not keep a balancer from serving.
		n.saving = n.store.commit(r)
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
	n.event(lb.Event{Kind: "config.start", Subject: n.running.generation.String(), Detail: "objects are owned by the " + string(n.running.owner)})
	return nil
}

// next is the generation after g, made here.
func (n *Node) next(g Generation) Generation {
	return Generation{g.Counter + 1, n.running.config.Node.Name}
}

func (r Record) source() source {
	s := source{owner: r.Owner, file: r.File, settings: []byte(r.Settings)}
	if r.Owner == OwnedDocument {
		s.objects = []byte(r.Objects)
	}
	return s
}

func (n *Node) record(r running, e edit) Record {
	return Record{
		Generation: r.generation, Time: n.o.Now().UTC(), By: e.by, Action: e.action,
		Owner: r.owner, File: r.file, Settings: string(r.settings), Objects: string(r.objects), Files: r.files,
	}
}

// apply hands a configuration to the workers. Whoever calls it keeps run from
// using sockets meanwhile.
func (n *Node) apply(ctx context.Context, r running, files map[string][]byte, persist func() error) error {
	// Whoever asked may go away; a change is finished or undone, never left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTime)
	defer cancel()
	return n.o.Fleet.Apply(ctx, Update{
		Generation: r.generation.Counter, File: r.file, Document: r.document(),
		Files: files, Config: r.config, Persist: persist,
	})
}

// change carries one edit through: text, validation, files, workers, disk,
// switch. Any error before the switch leaves the running generation untouched.
func (n *Node) change(ctx context.Context, e edit) (Applied, error) {
	if err := n.awaitServing(ctx); err != nil {
		return Applied{}, err
	}
	if err := n.changes.enter(ctx); err != nil {
		return Applied{}, err
	}
	defer n.changes.leave()
	now := n.snapshot.Load().running
	if e.match != "" && e.match != now.generation.String() {
		return Applied{}, fail(Conflict, "look at it with `lbctl config show` and edit again",
			"the edit began with generation %s; %s runs", e.match, now.generation)
	}
	then, files, err := n.build(now, e)
	if err != nil {
		n.refused(e, err)
		return Applied{}, err
	}
	done := Applied{Generation: now.generation, DryRun: e.dry, Changes: n.differences(now.config, then.config)}
	done.Notes = restartNotes(n.booted, then.config)
	same := then.source.same(now.source) && then.files == now.files
	if same || e.dry {
		done.Changed = !same
		n.accepted(e)
		return done, nil
	}
	then.generation = n.next(now.generation)
	if err := n.switchTo(ctx, then, files, e); err != nil {
		n.refused(e, err)
		return Applied{}, err
	}
	done.Generation, done.Changed = then.generation, true
	n.log.Info("configuration changed", "generation", then.generation, "action", e.action, "by", e.by, "differences", len(done.Changes))
	return done, nil
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
func (n *Node) build(now running, e edit) (then running, files map[string][]byte, err error) {
	then = running{since: n.o.Now()}
	if then.source, err = e.next(now); err != nil {
		return then, nil, err
	}
	if then.config, err = then.source.parse(n.o.State.filters); err != nil {
		return then, nil, &Error{Kind: Refused, Text: refusal(err, now.generation), Err: err}
	}
	if then.config.Node.Name != n.booted.Node.Name || then.config.Node.DataDir != n.booted.Node.DataDir {
		return then, nil, fail(Refused, "restart lbd to change them", "node.name and node.data_dir cannot change while lbd runs. %s", unchanged(now.generation))
	}
	if files, err = readFiles(then.config); err != nil {
		return then, nil, &Error{Kind: Refused, Text: fmt.Sprintf("%v. %s", err, unchanged(now.generation)), Err: err}
	}
	then.files = digest(files)
	return then, files, nil
}

// switchTo has the workers build, the disk keep and the loop use a
// configuration.
func (n *Node) switchTo(ctx context.Context, then running, files map[string][]byte, e edit) error {
	now := n.snapshot.Load().running
	var unsaved error
	// Until run uses the new configuration, too: no steering of its sockets by
	// the VIPs of the old one.
	n.sockets.Lock()
	release := sync.OnceFunc(n.sockets.Unlock)
	defer n.wake() // steering may have waited
	defer release()
	err := n.apply(ctx, then, files, func() error {
		unsaved = n.store.commit(n.record(then, e))
		return unsaved
	})
	switch {
	case unsaved != nil:
		return because(unsaved, Unwritable, "make room or give lbd the right to write there", "the change cannot be kept. %s", unchanged(now.generation))
	case err != nil:
		return &Error{Kind: Unbuilt, Text: fmt.Sprintf("the workers refuse it: %v. %s", strings.TrimRight(err.Error(), "."), unchanged(now.generation)), Err: err}
	}
	return n.do(func() {
		release()
		n.running, n.saving, n.loading = then, nil, nil // the disk is well again
		n.paths.force = true
		n.acceptedHere(e)
		n.event(lb.Event{Kind: "config.applied", Subject: then.generation.String(), Detail: e.action + " by " + e.by})
	})
}

// refused records that an edit came to nothing. Only the file's verdict stays
// in the status: whoever sent another edit has got the answer.
func (n *Node) refused(e edit, err error) {
	n.event(lb.Event{Kind: "config.refused", Subject: e.action, Detail: err.Error()})
	if e.action != reloadAction || e.dry {
		return
	}
	n.do(func() { n.reload = Reload{Time: n.o.Now(), Text: err.Error()} })
}

func (n *Node) accepted(e edit) {
	if e.action == reloadAction && !e.dry {
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
