package node

import (
	"context"
	"fmt"
	"time"

	"github.com/cirque-lb/lb"
)

// Bounds of a trial.
const (
	minTrial   = time.Second
	maxTrial   = 24 * time.Hour
	revertTime = 5 * time.Second // between tries to take a change back
)

// Trial is a change that is taken back unless somebody confirms it in time: who
// cut off the way to the node by it need do nothing. It stands beside the name
// of the current generation, in the same file, so neither is ever without the
// other.
type Trial struct {
	Back  Generation `json:"back"` // what returns
	Until time.Time  `json:"until"`
	By    string     `json:"by"`
}

// over reports whether the time to confirm has passed.
func (t *Trial) over(now time.Time) bool { return t != nil && !now.Before(t.Until) }

// begins makes the trial that an edit asks for, or refuses it.
func (e edit) begins(now running, at time.Time) (*Trial, error) {
	switch {
	case now.trial == nil && e.Confirm == 0, e.ends:
		return nil, nil
	case e.action == reloadAction && e.Confirm == 0: // settings pass; the objects stay on trial
		return now.trial, nil
	case now.trial != nil:
		return nil, fail(Conflict, "`lbctl config confirm` keeps it; `lbctl config rollback` takes it back",
			"generation %s is taken back at %s unless it is confirmed; another change has to wait", now.generation, clock(now.trial.Until))
	case !e.tries:
		return nil, fail(Invalid, "", "only a change of the document can wait to be confirmed, not this (%s)", e.action)
	case e.Confirm < minTrial || e.Confirm > maxTrial:
		return nil, fail(Invalid, "such as 60s", "a change can wait between %s and %s to be confirmed, not %s", minTrial, maxTrial, e.Confirm)
	}
	return &Trial{Back: now.generation, Until: at.Add(e.Confirm), By: e.By}, nil
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Confirm keeps a change that is on trial.
func (n *Node) Confirm(ctx context.Context, a Asked) (Applied, error) {
	if err := n.awaitServing(ctx); err != nil {
		return Applied{}, err
	}
	if err := n.changes.enter(ctx); err != nil {
		return Applied{}, err
	}
	defer n.changes.leave()
	now := n.snapshot.Load().running
	if err := a.fits(now.generation); err != nil {
		return Applied{}, err
	}
	if now.trial == nil {
		return Applied{}, fail(NotFound, "", "no change waits to be confirmed; generation %s stays", now.generation)
	}
	if a.Dry {
		return Applied{Generation: now.generation, DryRun: true}, nil
	}
	if err := n.store.point(now.generation, nil); err != nil {
		return Applied{}, because(err, Unwritable, writeHint, "that it is confirmed cannot be kept, so generation %s stays on trial", now.generation)
	}
	return Applied{Generation: now.generation}, n.do(func() {
		n.running.trial, n.unreverted = nil, nil
		n.event(lb.Event{Kind: "config.confirmed", Subject: now.generation.String(), Detail: "by " + a.By})
	})
}

// tickTrial takes a change back when the time to confirm it is over, off the
// loop.
func (n *Node) tickTrial() {
	now := n.o.Now()
	if !n.running.trial.over(now) || n.reverting || now.Before(n.revertAfter) {
		return
	}
	n.reverting = true
	n.group.Go(func() {
		err := n.revert(context.Background())
		n.do(func() {
			n.reverting, n.revertAfter, n.unreverted = false, n.o.Now().Add(revertTime), err
		})
	})
}

// revert makes the objects from before the trial a new generation.
func (n *Node) revert(ctx context.Context) error {
	t := n.snapshot.Load().running.trial
	if t == nil {
		return nil
	}
	_, err := n.change(ctx, edit{action: revertAction(t.Back), Asked: Asked{By: "lbd"}, ends: true, next: func(now running) (source, error) {
		if !now.trial.over(n.o.Now()) {
			return source{}, fail(Conflict, "", "it was confirmed in the last moment")
		}
		return n.before(now, now.trial.Back)
	}})
	return err
}

func revertAction(back Generation) string {
	return fmt.Sprintf("revert to %s: not confirmed", back)
}

// before is the running source with objects and edition of an earlier
// generation: what nobody else heard of is as if it had not been.
func (n *Node) before(now running, g Generation) (source, error) {
	s, err := n.objectsOf(now, g)
	if err == nil {
		if r, err := n.store.read(g); err == nil {
			s.edition = r.source().edition
		}
	}
	return s, err
}

// objectsOf is the running source with the objects of an earlier generation.
func (n *Node) objectsOf(now running, g Generation) (source, error) {
	r, err := n.store.read(g)
	if err != nil {
		return source{}, because(err, NotFound, "`lbctl config history` lists them", "generation %s cannot be read", g)
	}
	return now.source.with(r), nil
}

// with is the source with the objects of a record.
func (s source) with(r Record) source {
	s.owner, s.objects = OwnedDocument, []byte(r.Objects)
	if r.Owner == OwnedFile {
		s.objects = lb.Objects([]byte(r.Settings))
	}
	s.edited = "generation " + r.Generation.String()
	return s
}
