package app

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// keyring changes cluster.key_file and what follows from it while lbd runs:
// gossip, the tags of encapsulated packets, session tickets. The file is written
// first, so that a restart finds what was in force.
type keyring struct {
	mu      sync.Mutex // one change at a time
	file    string
	cluster *cluster.Cluster
	tickets func(secrets [][]byte)
	note    func(lb.Event)
}

func keyProblem(status int, code, hint, format string, args ...any) error {
	return &admin.Error{Status: status, Code: code, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

func (r *keyring) ready() error {
	if r == nil || r.cluster == nil || r.file == "" {
		return keyProblem(http.StatusNotFound, admin.CodeNotFound, "", "this node has no cluster.key_file")
	}
	return nil
}

// list says which keys the nodes have.
func (r *keyring) list() ([]admin.KeyRing, error) {
	if err := r.ready(); err != nil {
		return nil, err
	}
	all := []admin.KeyRing{}
	for _, one := range r.cluster.KeyRings() {
		all = append(all, admin.KeyRing{Node: one.Member, Alive: one.Alive, Keys: one.Names})
	}
	return all, nil
}

// change adds, uses or removes a key.
func (r *keyring) change(o admin.KeyOrder, by string) error {
	if err := r.ready(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	had := r.cluster.Keys()
	keys, err := r.next(had, o)
	if err != nil {
		return err
	}
	if !slices.Equal(had, keys) {
		if err := r.put(keys); err != nil {
			return err
		}
		r.note(lb.Event{Kind: "cluster.key", Subject: keys[0].Name(), Detail: fmt.Sprintf("%s by %s; %d keys open", o.Action, by, len(keys))})
	}
	return nil
}

// next is the ring after an order. Who would be left behind is asked first: a
// key is used when everybody has it, and removed when nobody signs with it.
func (r *keyring) next(had []cluster.Key, o admin.KeyOrder) ([]cluster.Key, error) {
	if o.Action == "add" {
		parsed, err := cluster.ParseKeys([]byte(o.Key))
		switch {
		case err != nil || len(parsed) != 1:
			return nil, keyProblem(http.StatusBadRequest, admin.CodeRequest, "make one with `lbctl cluster key new`", "that is not a key: 64 hexadecimal digits")
		case slices.Contains(had, parsed[0]):
			return had, nil
		case len(had) == 2:
			return nil, keyProblem(http.StatusConflict, admin.CodeConflict, "end the rotation that is under way: `lbctl cluster key remove`", "there are two keys already, %s and %s", had[0].Name(), had[1].Name())
		}
		return append(had, parsed[0]), nil
	}
	at := slices.IndexFunc(had, func(k cluster.Key) bool { return k.Name() == o.Key || k.String() == o.Key })
	switch {
	case at < 0:
		return nil, keyProblem(http.StatusNotFound, admin.CodeNotFound, "`lbctl cluster key list` shows them", "there is no key %q here", short(o.Key))
	case o.Action == "use" && at == 0:
		return had, nil
	case o.Action == "use":
		if without := r.who(func(names []string) bool { return !slices.Contains(names, had[at].Name()) }); without != nil && !o.Force {
			return nil, keyProblem(http.StatusConflict, admin.CodeConflict, "run `lbctl cluster key add` there first, or --force", "%s would not understand us: they do not have key %s", strings.Join(without, ", "), had[at].Name())
		}
		return []cluster.Key{had[at], had[1-at]}, nil
	case o.Action == "remove" && at == 0:
		return nil, keyProblem(http.StatusConflict, admin.CodeConflict, "`lbctl cluster key use` another one first", "key %s signs", had[0].Name())
	case o.Action == "remove":
		if using := r.who(func(names []string) bool { return names[0] == had[at].Name() }); using != nil && !o.Force {
			return nil, keyProblem(http.StatusConflict, admin.CodeConflict, "run `lbctl cluster key use` there first, or --force", "%s still sign with key %s", strings.Join(using, ", "), had[at].Name())
		}
		return []cluster.Key{had[0]}, nil
	}
	return nil, keyProblem(http.StatusBadRequest, admin.CodeRequest, "add, use or remove", "%q is nothing to do to a key", o.Action)
}

func short(key string) string { return key[:min(len(key), 16)] }

// who lists the nodes whose rings are so. One that is away with the keys of then
// counts, unless it said good-bye: with another key it could not come back.
func (r *keyring) who(so func([]string) bool) (names []string) {
	states := map[string]cluster.MemberState{}
	for _, m := range r.cluster.Members() {
		states[m.Name] = m.State
	}
	for _, one := range r.cluster.KeyRings() {
		switch state := states[one.Member]; {
		case len(one.Names) == 0 || !so(one.Names):
		case state == cluster.Alive:
			names = append(names, one.Member)
		case state == cluster.Dead:
			names = append(names, one.Member+" (away)")
		}
	}
	return names
}

func (r *keyring) put(keys []cluster.Key) error {
	text := ""
	for _, k := range keys {
		text += k.String() + "\n"
	}
	mode := os.FileMode(0o600)
	if was, err := os.Stat(r.file); err == nil {
		mode = was.Mode().Perm()
	}
	if err := renameio.WriteFile(r.file, []byte(text), mode); err != nil {
		return keyProblem(http.StatusInsufficientStorage, admin.CodeState, "make room or give lbd the right to write there", "%v; the keys are as they were", err)
	}
	if err := r.cluster.SetKeys(keys); err != nil {
		return err
	}
	r.tickets(ticketSecrets(keys))
	return nil
}

func (c control) Keys(context.Context) ([]admin.KeyRing, error) { return c.keys.list() }

func (c control) ChangeKey(_ context.Context, o admin.KeyOrder, a admin.Ask) error {
	return c.keys.change(o, a.By)
}
