package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"

	"github.com/cirque-lb/lb"
)

// saved is the content of the state file: without it, nodes that all restart
// at once would forget which previous epochs their connections need.
type saved struct {
	Cluster string          `json:"cluster"`
	Epochs  json.RawMessage `json:"epochs"`
}

// load reads the state file. A file that cannot be used is said and ignored:
// peers have the list, too.
func (c *Cluster) load() []lb.Epoch {
	if c.options.StateFile == "" {
		return nil
	}
	epochs, err := readSaved(c.options.StateFile, c.options.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.options.Log.Warn("saved epochs ignored", "file", c.options.StateFile, "error", err)
	}
	return epochs
}

func readSaved(file, cluster string) ([]lb.Epoch, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	if s.Cluster != cluster {
		return nil, fmt.Errorf("they are of cluster %q", s.Cluster)
	}
	return decodeEpochs(s.Epochs)
}

func (c *Cluster) save(epochs []lb.Epoch) {
	if c.options.StateFile == "" {
		return
	}
	body, err := json.Marshal(epochs)
	if err == nil {
		var text []byte
		text, err = json.Marshal(saved{c.options.Name, body})
		if err == nil {
			err = renameio.WriteFile(c.options.StateFile, text, 0o600)
		}
	}
	if err != nil {
		c.options.Log.Error("epochs not saved", "file", c.options.StateFile, "error", err)
	}
}
