package node

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

const reloadAction = "reload"

// ownedByFile is the answer to every edit of objects that the file owns.
func ownedByFile(file string) error {
	return fail(OwnedByFile, "", "objects are owned by %s; edit it and reload, or `lbctl config adopt`", file)
}

// Reload reads the file again: SIGHUP and `lbctl config reload`.
func (n *Node) Reload(ctx context.Context, a Asked) (Applied, error) {
	return n.change(ctx, edit{action: reloadAction, Asked: a, next: func(now running) (source, error) {
		next := now.source
		var err error
		next.settings, err = readSettings(now)
		return next, err
	}})
}

func readSettings(now running) ([]byte, error) {
	text, err := readBounded(now.file, maxDocument)
	if err != nil {
		return nil, &Error{Kind: Refused, Text: fmt.Sprintf("%v. %s", err, unchanged(now.generation)), Err: err}
	}
	if blank(text) && !blank(now.settings) { // its writer failed, more likely than meant it
		return nil, &Error{Kind: Refused, Text: fmt.Sprintf("%s is empty; {} says that this is meant. %s", now.file, unchanged(now.generation))}
	}
	return text, nil
}

func blank(text []byte) bool { return len(bytes.TrimSpace(text)) == 0 }

// Apply replaces the objects of the document.
func (n *Node) Apply(ctx context.Context, text []byte, name string, a Asked) (Applied, error) {
	return n.change(ctx, edit{action: "apply", Asked: a, tries: true, next: func(now running) (source, error) {
		if now.owner == OwnedFile {
			return source{}, ownedByFile(now.file)
		}
		next := now.source
		next.objects, next.edited = text, name
		return next, nil
	}})
}

// Diff says what Apply, or a reload of this text, would change.
func (n *Node) Diff(ctx context.Context, text []byte, name string) ([]Difference, error) {
	done, err := n.change(ctx, edit{action: "diff", ends: true, Asked: Asked{Dry: true}, next: func(now running) (source, error) {
		next := now.source
		if now.owner == OwnedFile {
			next.settings, next.file = text, name
		} else {
			next.objects, next.edited = text, name
		}
		return next, nil
	}})
	return done.Changes, err
}

// Adopt moves the objects from the file to the document in data_dir. In a cluster
// that has a document the node takes that one.
func (n *Node) Adopt(ctx context.Context, a Asked) (Applied, error) {
	return n.change(ctx, edit{action: "adopt", Asked: a, next: func(now running) (source, error) {
		if now.owner == OwnedDocument {
			return now.source, nil
		}
		next := now.source
		next.owner, next.objects = OwnedDocument, lb.Objects(now.settings)
		if n.o.Cluster != nil { // it has a document already: the node takes that one
			if d, ok := n.o.Cluster.Document(); ok {
				next.objects, next.edited, next.edition = d.Text, "document "+d.Generation.String(), d.edition()
			}
		}
		return next, nil
	}})
}

// Release gives the objects back to the file, as they stand in it now. Unless
// discard is set the file must say what runs: what only the document has would
// be lost.
func (n *Node) Release(ctx context.Context, discard bool, a Asked) (Applied, error) {
	return n.change(ctx, edit{action: "release", Asked: a, keep: !discard, next: func(now running) (source, error) {
		if now.owner == OwnedFile {
			return now.source, nil
		}
		next := source{owner: OwnedFile, file: now.file}
		var err error
		next.settings, err = readSettings(now)
		return next, err
	}})
}

// Rollback makes an earlier generation's objects a new generation. It ends a
// trial: who asks for it has the way to the node.
func (n *Node) Rollback(ctx context.Context, to string, a Asked) (Applied, error) {
	g, err := n.named(to)
	if err != nil {
		return Applied{}, err
	}
	return n.change(ctx, edit{action: "rollback to " + g.String(), Asked: a, tries: true, ends: a.Confirm == 0, next: func(now running) (source, error) {
		if now.owner == OwnedFile {
			return source{}, ownedByFile(now.file)
		}
		return n.objectsOf(now, g)
	}})
}

// named reads "42@edge-1", or "42" when only one node made a 42.
func (n *Node) named(text string) (Generation, error) {
	var found []Generation
	for _, g := range n.store.list() {
		if g.String() == text || strings.HasPrefix(g.String(), text+"@") {
			found = append(found, g)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Generation{}, fail(NotFound, "`lbctl config history` lists them", "there is no generation %q in the history", text)
	}
	return Generation{}, fail(Invalid, "say which, such as "+found[0].String(), "more than one node made a generation %s", text)
}

// Document gives the text that holds the objects, of a generation or ("") of
// the one in force.
func (n *Node) Document(generation string) (string, Generation, error) {
	now := n.snapshot.Load().running
	if generation == "" || generation == now.generation.String() {
		return string(now.holder()), now.generation, nil
	}
	g, err := n.named(generation)
	if err != nil {
		return "", g, err
	}
	r, err := n.store.read(g)
	if err != nil {
		return "", g, because(err, NotFound, "`lbctl config history` lists them", "generation %s cannot be read", g)
	}
	return string(r.source().holder()), g, nil
}

// Past is one line of the history.
type Past struct {
	Generation Generation
	Time       time.Time
	By, Action string
	Owner      Owner
	Bytes      int
	Current    bool
	Lost       Generation // it lost to this one, made without knowing of it
	Trouble    string     // why it cannot be read
}

// History lists the generations that are kept, newest first.
func (n *Node) History() []Past {
	now := n.snapshot.Load().running.generation
	var all []Past
	for _, g := range n.store.list() {
		p := Past{Generation: g, Current: g == now}
		if r, err := n.store.read(g); err != nil {
			p.Trouble = err.Error()
		} else {
			p.Time, p.By, p.Action, p.Owner, p.Bytes, p.Lost = r.Time, r.By, r.Action, r.Owner, len(r.source().holder()), r.Lost
		}
		all = append([]Past{p}, all...)
	}
	return all
}

// BackendEdit is a change of one backend in the document.
type BackendEdit struct {
	Action string // add | set | remove
	ID     lb.BackendID
	Weight *int
	Backup *bool
}

// EditBackend changes one backend in the document, and nothing else of it.
func (n *Node) EditBackend(ctx context.Context, b BackendEdit, a Asked) (Applied, error) {
	action := fmt.Sprintf("backend %s %s", b.Action, b.ID)
	return n.change(ctx, edit{action: action, Asked: a, tries: true, next: func(now running) (source, error) {
		if now.owner == OwnedFile {
			return source{}, ownedByFile(now.file)
		}
		text, err := b.edit(now)
		if err != nil {
			return source{}, err
		}
		next := now.source
		next.objects = text
		return next, nil
	}})
}

func (b BackendEdit) edit(now running) ([]byte, error) {
	pool := now.config.Pool(b.ID.Pool)
	if pool == nil {
		return nil, fail(NotFound, "`lbctl pool list` shows them", "there is no pool %q", b.ID.Pool)
	}
	old := backend(pool, b.ID.Address)
	switch {
	case b.Action == "add" && old != nil && !old.Found:
		return nil, fail(Conflict, "change it with `lbctl backend set`", "pool %s has the backend %s already", b.ID.Pool, b.ID.Address)
	case b.Action != "add" && old == nil:
		return nil, noBackend(b.ID)
	case b.Action != "add" && old.Found:
		return nil, fail(Conflict, "change it there, or `lbctl backend drain` and `--override-weight` here", "backend %s is not in the document; %s has it", b.ID, pool.Discover)
	}
	then := lb.Backend{Address: b.ID.Address, Weight: 1}
	if old != nil && !old.Found {
		then = *old
	}
	if b.Weight != nil {
		then.Weight = *b.Weight
	}
	if b.Backup != nil {
		then.Backup = *b.Backup
	}
	var text []byte
	var err error
	switch b.Action {
	case "add":
		text, err = lb.AddBackend(now.objects, b.ID.Pool, then)
	case "set":
		text, err = lb.SetBackend(now.objects, b.ID.Pool, then)
	case "remove":
		text, err = lb.RemoveBackend(now.objects, b.ID.Pool, b.ID.Address)
	default:
		return nil, fail(Invalid, "add, set or remove", "%q is nothing to do to a backend", b.Action)
	}
	if err != nil {
		return nil, because(err, Invalid, "edit the text: `lbctl config show > f`, then `lbctl config apply -f f`", "%s backend %s", b.Action, b.ID)
	}
	return text, nil
}

func backend(p *lb.Pool, address string) *lb.Backend {
	for _, b := range p.Backends {
		if b.Address == address {
			return b
		}
	}
	return nil
}

func noBackend(id lb.BackendID) error {
	return fail(NotFound, "`lbctl backend list` shows them; a backend is named POOL/ADDRESS", "there is no backend %s", id)
}
