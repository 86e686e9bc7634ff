package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
)

// saved is the content of the state file: without it, nodes that all restart
// at once would forget which previous epochs their connections need.
type saved struct {
	Cluster string `json:"cluster"`
	list
}

// load reads the state file. A file that cannot be used is said and ignored:
// peers have the list, too.
func (c *Cluster) load(v *view) {
	if c.options.StateFile == "" {
		return
	}
	l, err := readSaved(c.options.StateFile, c.options.Name)
	switch {
	case err == nil:
		v.seed, v.firm = [16]byte(l.Seed), true
		v.merge(l.Epochs)
	case !errors.Is(err, fs.ErrNotExist):
		c.options.Log.Warn("saved epochs ignored", "file", c.options.StateFile, "error", err)
	}
}

func readSaved(file, cluster string) (list, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return list{}, err
	}
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return list{}, err
	}
	if s.Cluster != cluster {
		return list{}, fmt.Errorf("they are of cluster %q", s.Cluster)
	}
	return decodeList(text)
}

func (c *Cluster) save(l list) {
	if c.options.StateFile == "" {
		return
	}
	l.From, l.Said = "", nil
	text, err := json.Marshal(saved{c.options.Name, l})
	if err == nil {
		err = renameio.WriteFile(c.options.StateFile, text, 0o600) // the seed is a secret
	}
	if err != nil {
		c.options.Log.Error("epochs not saved", "file", c.options.StateFile, "error", err)
	}
}
