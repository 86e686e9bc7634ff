package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
	"golang.org/x/sys/unix"
)

// State is what a node knows before anything runs: the document and the
// operators' overlay, as the file and data_dir have them.
type State struct {
	filters map[string]func(lb.Node) error
	store   store
	lock    *os.File // held while this process lives

	source  source
	config  *lb.Config
	current Record // the newest generation; its Counter is 0 at a first start
	trial   *Trial // of the current generation
	overlay Overlay
	found   map[string][]lb.Backend // what sources answered last, by source
	seed    [16]byte
	// reverted is what returned because nobody confirmed what came after it.
	reverted *Generation
	refused  error    // why the file does not run; the current generation does instead
	told     []string // what was wrong in data_dir
	unlocked error    // why data_dir is not locked: nothing can be kept in it
}

// Config is the configuration that will run first: what main opens the fleet,
// the datapath and the cluster with.
func (s *State) Config() *lb.Config { return s.config }

// Load reads the file and what data_dir keeps, and decides which configuration
// is the first to run: the file's; with objects of the document when an
// operator adopted them; and when the file is refused, the last generation
// that ran. Without one the error is the file's, an lb.Errors.
func Load(file string, filters map[string]func(lb.Node) error) (*State, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	text, err := readBounded(file, maxDocument)
	if err != nil {
		return nil, err
	}
	s := &State{filters: filters, source: source{owner: OwnedFile, file: file, settings: text}}
	s.config, s.refused = s.source.parse(filters)
	if err := s.openStore(s.dataDir()); err != nil {
		return nil, err
	}
	if err := s.choose(); err != nil {
		s.Close()
		return nil, err
	}
	s.revert(time.Now())
	return s, nil
}

// revert takes the last change back when the time to confirm it passed while
// nobody was here to do it. What cannot be taken back now stays on trial, and
// the node goes on trying.
func (s *State) revert(now time.Time) {
	if !s.trial.over(now) || s.source.owner != OwnedDocument {
		return
	}
	back, err := s.store.read(s.trial.Back)
	if err != nil {
		return
	}
	then := s.source.with(back)
	then.edition = back.source().edition
	c, err := then.parse(s.filters)
	if err != nil {
		return
	}
	s.source, s.config, s.reverted, s.trial = then, c, &back.Generation, nil
}

// dataDir is where state is kept. A file that is refused may still say so in
// its settings; a file that is no YAML at all cannot.
func (s *State) dataDir() string {
	if s.config != nil {
		return s.config.Node.DataDir
	}
	for _, settings := range [][]byte{lb.Settings(s.source.settings), nil} {
		if c, err := lb.ParseWith(settings, nil, lb.Options{Filters: s.filters}); err == nil {
			return c.Node.DataDir
		}
	}
	return ""
}

// openStore reads data_dir. A directory that cannot be made or locked for want
// of rights is told, not fatal: a balancer starts on a read-only disk, too.
func (s *State) openStore(dir string) error {
	if dir == "" {
		return nil
	}
	s.store = store{dir}
	if err := s.lockDir(); err != nil {
		return err
	}
	var told []string
	var err error
	if s.current, s.trial, told, err = s.store.last(); err != nil {
		return err
	}
	s.told = append(s.told, told...)
	s.found, told = s.store.readFound()
	s.told = append(s.told, told...)
	if s.overlay, told, err = s.store.readOverlay(); err != nil {
		return err
	}
	s.told = append(s.told, told...)
	s.seed, told = s.store.ownSeed()
	s.told = append(s.told, told...)
	return nil
}

func (s *State) lockDir() error {
	if s.unlocked = os.MkdirAll(s.store.dir, 0o700); s.unlocked != nil {
		return nil
	}
	path := filepath.Join(s.store.dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		s.unlocked = err
		return nil
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("lock %s: another lbd uses this data_dir; give each its own node.data_dir", path)
	}
	s.lock = f
	return nil
}

// choose settles which configuration runs first.
func (s *State) choose() error {
	last := s.current
	if last.Owner == OwnedDocument {
		s.source.owner, s.source.objects, s.source.edition = OwnedDocument, []byte(last.Objects), last.source().edition
		s.config, s.refused = s.source.parse(s.filters)
	}
	if s.refused == nil {
		return nil
	}
	if last.Generation.Counter == 0 || last.File != s.source.file {
		return s.refused
	}
	s.source.settings = []byte(last.Settings)
	c, err := s.source.parse(s.filters)
	if err != nil {
		return errors.Join(s.refused, fmt.Errorf("generation %s, which ran last, is refused too: %w", last.Generation, err))
	}
	s.config = c
	return nil
}

// Close lets go of data_dir.
func (s *State) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// refusal renders a refused document as users see it, with the verdict.
func refusal(err error, running Generation) string {
	text := err.Error()
	if errs := (lb.Errors)(nil); errors.As(err, &errs) {
		text = fmt.Sprintf("%s\n%s", text, plural(len(errs), "error")+".")
	}
	if running.Counter == 0 {
		return text
	}
	return strings.TrimRight(text, "\n") + " " + unchanged(running)
}

func unchanged(running Generation) string {
	return fmt.Sprintf("The running configuration (generation %d) is unchanged.", running.Counter)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
