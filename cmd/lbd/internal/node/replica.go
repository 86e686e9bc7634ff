package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// How the document of a cluster gets here.
const (
	rebuildFirst  = time.Second     // after a document that cannot be built here, doubled each time
	rebuildMost   = 5 * time.Second // up to this, or four times what the last try took
	verdictTime   = 5 * time.Second // that an edit waits for the other nodes
	standingPart  = "config"        // of what a node says of itself
	maxDriftBytes = 600
)

// Document is an edit of the objects that a cluster shares.
type Document struct {
	Generation Generation
	Past       []Generation // the edits it follows, the newest first
	Time       time.Time
	By, Action string
	Text       []byte
	Seal       string // of its author, for the cluster
}

// Saying is a part of what a node says of itself by gossip.
type Saying struct {
	Member string
	Alive  bool
	Body   []byte
	Heard  time.Time
}

// Edition is which edit of the document a configuration has. A reload of the
// settings makes another generation of the same edition.
type Edition struct {
	Generation Generation   `json:"generation"`
	Past       []Generation `json:"past,omitempty"`
	Time       time.Time    `json:"time"`
	By         string       `json:"by"`
	Action     string       `json:"action"`
	Seal       string       `json:"seal,omitempty"`
}

func (e Edition) document(text []byte) Document {
	return Document{e.Generation, e.Past, e.Time, e.By, e.Action, text, e.Seal}
}

func (d Document) edition() Edition {
	return Edition{d.Generation, d.Past, d.Time, d.By, d.Action, d.Seal}
}

// Standing is what a node says of its configuration, for the others' status.
type Standing struct {
	Runs     Generation `json:"runs"`
	Owner    Owner      `json:"owner"`
	Document Generation `json:"document,omitzero"` // the edition; none when the file owns
	Objects  string     `json:"objects"`           // a digest of their text
	Drift    *Drift     `json:"drift,omitempty"`
	Epoch    uint64     `json:"epoch,omitempty"` // a digest of the current one: whom it has flows go to
	Trial    bool       `json:"trial,omitempty"` // it is not yet anybody else's
	Follows  bool       `json:"follows"`         // it takes the cluster's document

	Alive bool `json:"-"`
}

// Drift is a document of the cluster that cannot be built here.
type Drift struct {
	Document Generation `json:"document"`
	Text     string     `json:"text"` // why, with the line
}

// Verdict is what another node made of an edit.
type Verdict struct {
	Node string
	// State is "runs", "refuses", "waits" (it has not said anything in time), "apart"
	// (its file owns its objects) or "away".
	State  string
	Detail string
}

// replica is how far this node is with the cluster's document. Owned by run.
type replica struct {
	busy    bool
	drift   *Drift
	refused string // the seal of what the drift is about
	again   time.Time
	delay   time.Duration // before again
	offered string        // the seal of what the cluster was given
	said    []byte
	lost    []Document // not yet in the history
}

// due reports whether a document that could not be built is to be tried again.
func (r *replica) due(now time.Time) bool {
	return r.drift != nil && !r.busy && !now.Before(r.again)
}

// follows reports whether this node takes the cluster's document: its objects
// are a document, or its file has none.
func (s source) follows() bool {
	return s.owner == OwnedDocument || len(bytes.TrimSpace(lb.Objects(s.settings))) == 0
}

// sealed is the source with its edition signed for the cluster, when it is an
// edit of this node.
func (n *Node) sealed(s source) source {
	if n.o.Cluster != nil && s.owner == OwnedDocument && s.edition.Generation.Node == n.booted.Node.Name {
		s.edition.Seal = n.o.Cluster.Seal(s.edition.document(s.objects))
	}
	return s
}

// newEdition makes an edit of what changed.
func (n *Node) newEdition(now running, then *running, e edit) {
	then.edition = Edition{Generation: then.generation, Time: n.o.Now().UTC(), By: e.By, Action: e.action}
	if before := now.edition.Generation; !before.IsZero() {
		then.edition.Past = append([]Generation{before}, now.edition.Past...)
		then.edition.Past = then.edition.Past[:min(len(then.edition.Past), kept)]
	}
	then.source = n.sealed(then.source)
}

// replicate gives our edition to the cluster, brings the cluster's newer one
// here, off the loop, and says how we stand. Called by run.
func (n *Node) replicate() {
	c := n.o.Cluster
	if c == nil || n.told == nil {
		return
	}
	n.offer()
	r := &n.replica
	d, ok := c.Document()
	r.lost = append(r.lost, c.Losses()...)
	r.lost = r.lost[max(0, len(r.lost)-kept):]
	if r.drift != nil && n.running.edition.Generation.Compare(r.drift.Document) >= 0 {
		r.drift = nil
	}
	if wants := ok && n.wants(d); !r.busy && (wants || len(r.lost) > 0) {
		lost := r.lost
		r.busy, r.lost = true, nil
		n.group.Go(func() {
			n.keepLost(lost, d)
			if wants {
				n.bring(d)
			}
			n.do(func() { r.busy = false })
		})
	}
	n.stand()
}

// offer tells the cluster of our edition, unless it is on trial: what nobody
// has confirmed is this node's alone.
func (n *Node) offer() {
	r := &n.running
	if r.owner != OwnedDocument || r.trial != nil || r.edition.Seal == "" || r.edition.Seal == n.replica.offered {
		return
	}
	n.replica.offered = r.edition.Seal
	if err := n.o.Cluster.Offer(r.edition.Seal, r.objects); err != nil {
		n.event(lb.Event{Kind: "config.unshared", Subject: r.edition.Generation.String(), Detail: err.Error()})
	}
}

// wants reports whether the cluster's document is to be built here now.
func (n *Node) wants(d Document) bool {
	r := &n.running
	order := d.Generation.Compare(r.edition.Generation)
	switch {
	case !r.follows() || r.trial != nil:
		return false
	case order < 0 || order == 0 && d.Seal == r.edition.Seal:
		return false
	case n.replica.drift != nil && n.replica.refused == d.Seal:
		return !n.o.Now().Before(n.replica.again)
	}
	return true
}

// bring makes the cluster's document what runs here, or says why not.
func (n *Node) bring(d Document) {
	ctx, cancel := context.WithTimeout(context.Background(), applyTime)
	defer cancel()
	began := n.o.Now()
	_, err := n.change(ctx, edit{action: fmt.Sprintf("%s on %s", d.Action, d.Generation.Node), Asked: Asked{By: d.By}, from: &d, next: func(now running) (source, error) {
		next := now.source
		next.owner, next.objects, next.edited, next.edition = OwnedDocument, d.Text, "document "+d.Generation.String(), d.edition()
		return next, nil
	}})
	n.do(func() {
		r := &n.replica
		if err == nil {
			r.drift, r.refused = nil, ""
			return
		}
		fresh := r.refused != d.Seal
		r.drift, r.refused = &Drift{d.Generation, driftText(err)}, d.Seal
		r.tryAgain(fresh, began, n.o.Now())
		if fresh {
			n.event(lb.Event{Kind: "config.drift", Subject: d.Generation.String(), Detail: fmt.Sprintf("it cannot be built here, so generation %s runs: %s", n.running.generation, firstLine(r.drift.Text))})
		}
	})
}

// tryAgain sets when a document that could not be built is tried again: soon, as
// what was in its way may be over, and then less often.
func (r *replica) tryAgain(fresh bool, began, now time.Time) {
	r.delay = min(2*r.delay, rebuildMost)
	if fresh {
		r.delay = rebuildFirst
	}
	r.again = now.Add(max(r.delay, 4*now.Sub(began)))
}

// driftText is an error's lines up to its verdict on what runs.
func driftText(err error) string {
	text, _, _ := strings.Cut(err.Error(), " The running configuration")
	return strings.TrimSpace(text[:min(len(text), maxDriftBytes)])
}

// keepLost keeps the edits that lost to one made without knowing of them.
func (n *Node) keepLost(all []Document, to Document) {
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), applyTime)
	defer cancel()
	if n.changes.enter(ctx) != nil {
		return // as many wait as may
	}
	defer n.changes.leave()
	for _, d := range all {
		n.keepLoss(d, to.Generation)
		n.keepBranch(d, to)
	}
}

// keepBranch marks the edits that lead to one that lost, as far as they are here.
func (n *Node) keepBranch(d, to Document) {
	for _, g := range d.Past {
		if slices.Contains(to.Past, g) {
			return // what comes before it is before both
		}
		r, err := n.store.read(g)
		if err != nil || !r.Lost.IsZero() || r.Edition.Generation != g {
			continue
		}
		r.Lost = to.Generation
		if err := n.store.keep(r); err != nil {
			n.log.Warn("mark an edit as lost", "generation", g, "err", err)
		}
	}
}

func (n *Node) keepLoss(d Document, to Generation) {
	r, err := n.store.read(d.Generation)
	if err == nil && !r.Lost.IsZero() {
		return // told before a restart
	}
	if err != nil {
		now := n.snapshot.Load().running
		r = Record{Generation: d.Generation, Time: d.Time, By: d.By, Action: d.Action, Owner: OwnedDocument,
			File: now.file, Settings: string(now.settings), Objects: string(d.Text), Edition: d.edition()}
	}
	r.Lost = to
	err = n.store.keep(r)
	detail := fmt.Sprintf("%s by %s lost to %s, which was made without knowing of it; `lbctl config show %s` has it", r.Action, r.By, to, d.Generation)
	if err != nil {
		detail = fmt.Sprintf("%s by %s lost to %s; the history cannot keep it: %v", r.Action, r.By, to, err)
	}
	n.event(lb.Event{Kind: "config.lost", Subject: d.Generation.String(), Detail: detail})
}

// stand says how this node stands, when that changed.
func (n *Node) stand() {
	r := &n.running
	s := Standing{Runs: r.generation, Owner: r.owner, Objects: r.objectsDigest(), Drift: n.replica.drift, Trial: r.trial != nil, Follows: r.follows()}
	if r.owner == OwnedDocument {
		s.Document = r.edition.Generation
	}
	if epochs := n.o.Cluster.Epochs(); len(epochs) > 0 {
		s.Epoch = epochs[0].Digest()
	}
	body, err := json.Marshal(s)
	if err != nil || bytes.Equal(body, n.replica.said) {
		return
	}
	if err := n.o.Cluster.Say(standingPart, body, false); err != nil {
		n.log.Error("say how this node stands", "err", err)
		return
	}
	n.replica.said = body
}

func (s source) objectsDigest() string {
	text := s.objects
	if s.owner == OwnedFile {
		text = lb.Objects(s.settings)
	}
	sum := sha256.Sum256(bytes.TrimSpace(text))
	return hex.EncodeToString(sum[:8])
}

// standings is how every node stands, by name.
func standings(c Cluster) map[string]Standing {
	all := map[string]Standing{}
	for _, s := range c.Said(standingPart) {
		var one Standing
		if json.Unmarshal(s.Body, &one) == nil {
			one.Alive = s.Alive
			all[s.Member] = one
		}
	}
	return all
}

// ahead is a greater counter than any that is known, so that an edit made here
// wins over all that it knows of.
func (n *Node) ahead(counter uint64) uint64 {
	if n.o.Cluster == nil {
		return counter
	}
	counter = max(counter, n.o.Cluster.Counter())
	for _, s := range standings(n.o.Cluster) {
		if s.Runs.Counter < 1<<62 {
			counter = max(counter, s.Runs.Counter)
		}
	}
	return counter
}

// verdicts waits, within bounds, for what the other nodes make of an edit.
func (n *Node) verdicts(ctx context.Context, g Generation) []Verdict {
	ctx, cancel := context.WithTimeout(ctx, verdictTime)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		all, waits := n.verdictsNow(g)
		if !waits {
			return all
		}
		select {
		case <-ctx.Done():
			return all
		case <-n.stopped:
			return all
		case <-again.C:
		}
	}
}

func (n *Node) verdictsNow(g Generation) (all []Verdict, waits bool) {
	said := standings(n.o.Cluster)
	for _, p := range n.o.Cluster.Peers() {
		if p.Self || p.State == "left" {
			continue
		}
		v := verdict(said[p.Name], p.State == "alive", g)
		v.Node = p.Name
		waits = waits || v.State == "waits"
		all = append(all, v)
	}
	return all, waits
}

func verdict(s Standing, here bool, g Generation) Verdict {
	switch {
	case !here:
		return Verdict{State: "away", Detail: "it takes the document when it is back"}
	case s.Drift != nil && s.Drift.Document.Compare(g) >= 0:
		return Verdict{State: "refuses", Detail: s.Drift.Text}
	case s.Owner == OwnedDocument && s.Document.Compare(g) >= 0:
		return Verdict{State: "runs"}
	case s.Trial:
		return Verdict{State: "waits", Detail: fmt.Sprintf("%s is on trial there", s.Runs)}
	case !s.Follows && !s.Runs.IsZero():
		return Verdict{State: "apart", Detail: "its file owns its objects"}
	}
	return Verdict{State: "waits", Detail: "it has not answered yet"}
}

// documentProblems lists where the cluster's document does not run although it
// should.
func documentProblems(s *Snapshot) []Problem {
	var all []Problem
	if d := s.Drift; d != nil {
		all = append(all, Problem{"document", fmt.Sprintf("%s cannot be built here, so %s runs: %s", d.Document, s.Generation, firstLine(d.Text)),
			"mend what it says on this node, or edit the document; it is tried again by itself"})
	}
	for _, p := range s.Peers {
		if one := s.Standings[p.Name]; !p.Self && one.Alive && one.Drift != nil && len(all) < maxNamed {
			all = append(all, Problem{"node " + p.Name, fmt.Sprintf("cannot build document %s, so %s runs there: %s", one.Drift.Document, one.Runs, firstLine(one.Drift.Text)),
				"mend it there, or edit the document"})
		}
	}
	return all
}
