package node

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// kept is how many generations the history holds.
const kept = 50

// writeHint is what to do about a data_dir that cannot be written.
const writeHint = "make room or give lbd the right to write there"

// Owner says where the objects of the configuration live.
type Owner string

// The owners.
const (
	OwnedFile     Owner = "file"     // in the configuration file, beside the settings
	OwnedDocument Owner = "document" // in data_dir, edited through the admin API
)

// Generation names one configuration: a counter and the node that made it.
type Generation = lb.Generation

// Record is one generation of the history.
type Record struct {
	Generation Generation `json:"generation"`
	Time       time.Time  `json:"time"`
	By         string     `json:"by"`     // who asked for it
	Action     string     `json:"action"` // reload, apply, adopt, rollback of 41@edge-1…
	Owner      Owner      `json:"owner"`
	File       string     `json:"file"`             // the path of the configuration file
	Settings   string     `json:"text"`             // the configuration file's whole text
	Objects    string     `json:"objects"`          // the document's text when it owns the objects
	Files      string     `json:"files"`            // a digest of the files it names
	Edition    Edition    `json:"edition,omitzero"` // of the document
	Lost       Generation `json:"lost,omitzero"`    // to this one, which was made without knowing of it
}

// Overlay is what operators ordered beside the configuration.
type Overlay struct {
	Backends map[lb.BackendID]lb.Admin `json:"backends,omitempty"`
	// DrainSince is when this node was told to drain; zero: it was not.
	DrainSince time.Time `json:"drain_since,omitzero"`
	// Listeners are those that drain, and since when.
	Listeners map[string]time.Time `json:"listeners,omitempty"`
}

// store keeps a node's state in data_dir. Its methods are called by one
// goroutine at a time: whoever holds the node's token for changes or orders.
type store struct{ dir string }

func (s store) generations() string { return filepath.Join(s.dir, "generations") }
func (s store) overlay() string     { return filepath.Join(s.dir, "overlay.json") }
func (s store) current() string     { return filepath.Join(s.dir, "current.json") }
func (s store) seed() string        { return filepath.Join(s.dir, "seed.json") }
func (s store) found() string       { return filepath.Join(s.dir, "found.json") }

func (s store) record(g Generation) string {
	return filepath.Join(s.generations(), fmt.Sprintf("%012d@%s.json", g.Counter, g.Node))
}

// pointer is the content of current.json.
type pointer struct {
	Generation Generation `json:"generation"`
	Trial      *Trial     `json:"trial,omitempty"`
}

// commit makes r the current generation: the record first, then the pointer,
// so that the pointer never names what is not there.
func (s store) commit(r Record, t *Trial) error {
	if err := os.MkdirAll(s.generations(), 0o700); err != nil {
		return fmt.Errorf("make %s: %w", s.generations(), err)
	}
	if err := writeSealed(s.record(r.Generation), r); err != nil {
		return err
	}
	if err := s.point(r.Generation, t); err != nil {
		os.Remove(s.record(r.Generation)) // nobody was told of it
		return err
	}
	s.prune(r.Generation, t)
	return nil
}

// keep puts r in the history without making it current.
func (s store) keep(r Record) error {
	if err := os.MkdirAll(s.generations(), 0o700); err != nil {
		return fmt.Errorf("make %s: %w", s.generations(), err)
	}
	return writeSealed(s.record(r.Generation), r)
}

// point makes g the current generation, or changes its trial.
func (s store) point(g Generation, t *Trial) error { return writeSealed(s.current(), pointer{g, t}) }

// prune removes the oldest generations beyond what is kept. A file that cannot
// be removed is tried again by the next commit.
func (s store) prune(current Generation, t *Trial) {
	all := s.list()
	for _, g := range all[:max(0, len(all)-kept)] {
		if g != current && (t == nil || g != t.Back) {
			os.Remove(s.record(g))
		}
	}
}

// list gives the generations of the history, oldest first.
func (s store) list() []Generation {
	entries, err := os.ReadDir(s.generations())
	if err != nil {
		return nil // none yet
	}
	var all []Generation
	for _, e := range entries {
		var g Generation
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if ok && g.UnmarshalText([]byte(name)) == nil {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, Generation.Compare)
	return all
}

// read gives one generation of the history.
func (s store) read(g Generation) (Record, error) {
	var r Record
	err := readSealed(s.record(g), &r)
	return r, err
}

// last gives the current generation. When its files are corrupt they are set
// aside and the newest good generation stands in; what was wrong is told.
func (s store) last() (r Record, t *Trial, told []string, err error) {
	var p pointer
	err = readSealed(s.current(), &p)
	if err == nil {
		if r, err = s.read(p.Generation); err == nil {
			s.forget(p.Generation)
			return r, p.Trial, nil, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) && s.fresh() {
		return Record{}, nil, nil, nil // a first start
	}
	if errors.Is(err, errCorrupt) || errors.Is(err, fs.ErrNotExist) {
		told = append(told, s.aside(s.current(), err))
		r, more := s.newestGood()
		return r, nil, append(told, more...), nil
	}
	return Record{}, nil, nil, err
}

// fresh reports whether nothing was ever committed here: there is no record, or
// only the one of a first commit that did not get as far as the pointer.
func (s store) fresh() bool {
	all := s.list()
	return len(all) == 0 || len(all) == 1 && all[0].Counter == 1
}

// forget removes records that this node wrote after its current generation:
// it died before it pointed to them, and nobody was told of them.
func (s store) forget(current Generation) {
	for _, g := range s.list() {
		if g.Node == current.Node && g.Counter > current.Counter {
			os.Remove(s.record(g))
		}
	}
}

// newestGood finds the newest generation whose file is whole.
func (s store) newestGood() (Record, []string) {
	var told []string
	for _, g := range slices.Backward(s.list()) {
		r, err := s.read(g)
		if err == nil {
			return r, append(told, fmt.Sprintf("generation %s is the newest that is whole; it runs", g))
		}
		told = append(told, s.aside(s.record(g), err))
	}
	return Record{}, append(told, "no generation is whole; the history begins anew")
}

func (s store) aside(path string, err error) string {
	if !errors.Is(err, errCorrupt) {
		return err.Error()
	}
	return fmt.Sprintf("%v; it was set aside as %s", err, setAside(path))
}

// readOverlay gives the operators' overlay; a corrupt one is set aside, told
// and taken as empty.
func (s store) readOverlay() (o Overlay, told []string, err error) {
	err = readSealed(s.overlay(), &o)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Overlay{}, nil, nil
	case errors.Is(err, errCorrupt):
		return Overlay{}, []string{s.aside(s.overlay(), err) + "; drains, disables and weights given by operators are lost"}, nil
	}
	return o, nil, err
}

func (s store) writeOverlay(o Overlay) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", s.dir, err)
	}
	return writeSealed(s.overlay(), o)
}

// readFound gives what sources answered last. Corrupt, it is set aside: the
// sources are asked again anyway.
func (s store) readFound() (found map[string][]lb.Backend, told []string) {
	err := readSealed(s.found(), &found)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	return nil, []string{s.aside(s.found(), err) + "; discovered backends are unknown until their sources answer"}
}

func (s store) writeFound(found map[string][]lb.Backend) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", s.dir, err)
	}
	return writeSealed(s.found(), found)
}

// ownSeed is the row hash's secret seed of a node without a cluster: made
// once, then kept, so that a restart moves no flow. Without a place to keep it
// a new one is made, and told.
func (s store) ownSeed() (seed [16]byte, told []string) {
	var text string
	err := readSealed(s.seed(), &text)
	if raw, bad := hex.DecodeString(text); err == nil && bad == nil && len(raw) == len(seed) {
		return [16]byte(raw), nil
	}
	if errors.Is(err, errCorrupt) {
		told = append(told, s.aside(s.seed(), err)+"; flows of VIPs move to other rows")
	}
	rand.Read(seed[:]) // never fails
	err = os.MkdirAll(s.dir, 0o700)
	if err == nil {
		err = writeSealed(s.seed(), hex.EncodeToString(seed[:]))
	}
	if err != nil {
		told = append(told, fmt.Sprintf("keep the row hash's seed: %v; the next start makes another", err))
	}
	return seed, told
}
