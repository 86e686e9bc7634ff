package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Bounds of the audit log.
const (
	auditSize  = 1 << 20 // of one file
	auditFiles = 5       // the one that grows and those before it
	auditLine  = 8 << 10 // an order that is longer is left out of its line
)

// Act is one attempt to change something: a line of the audit log.
type Act struct {
	Time       time.Time `json:"time"`
	By         string    `json:"by"` // as the kernel says: uid 0 (pid 4711)
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	About      string    `json:"about,omitempty"`      // backend app/10.0.0.1:80, config, node, workers
	Order      any       `json:"order,omitempty"`      // what was sent; of a document its size and digest
	Generation string    `json:"generation,omitempty"` // that it led to
	DryRun     bool      `json:"dry_run,omitempty"`
	Refused    string    `json:"refused,omitempty"` // why; "": it was carried out
}

// Audit is a bounded log of who changed what, one JSON object per line. When a
// file is full it is renamed, and the oldest goes. Its methods may be called
// concurrently.
type Audit struct {
	path string

	mu   sync.Mutex // guards what follows, and the files
	file *os.File   // nil: not open yet, or it failed
	size int64
}

// OpenAudit makes the audit log at path. A file that cannot be written now may
// be later: the error comes with each act.
func OpenAudit(path string) *Audit { return &Audit{path: path} }

// Close lets go of the file.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}

func (a *Audit) add(e Act) error {
	line, err := json.Marshal(e)
	if err == nil && len(line) > auditLine {
		e.Order = fmt.Sprintf("%d bytes", len(line))
		line, err = json.Marshal(e)
	}
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.write(append(line, '\n'))
}

// write appends a line, in a new file when the old one is full.
func (a *Audit) write(line []byte) error {
	if a.file != nil && a.size+int64(len(line)) > auditSize {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	if err := a.open(); err != nil {
		return err
	}
	n, err := a.file.Write(line)
	a.size += int64(n)
	if err != nil {
		a.file.Close()
		a.file = nil
		return err // *fs.PathError says where
	}
	return nil
}

// open opens the file; a line that was cut by a full disk or a crash is ended.
func (a *Audit) open() error {
	if a.file != nil {
		return nil
	}
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	i, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	a.file, a.size = f, i.Size()
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, max(a.size-1, 0)); err == nil && last[0] != '\n' {
		n, err := f.Write([]byte("\n"))
		a.size += int64(n)
		return err
	}
	return nil
}

func (a *Audit) rotate() error {
	err := a.file.Close()
	a.file = nil
	for i := auditFiles - 1; i > 0; i-- {
		if err := os.Rename(a.name(i-1), a.name(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// name is the i-th file: 0 is the one that grows.
func (a *Audit) name(i int) string {
	if i == 0 {
		return a.path
	}
	return fmt.Sprintf("%s.%d", a.path, i)
}

// About lists the newest acts about something, oldest first. Lines that do not
// read, of a crash or another version, are passed over.
func (a *Audit) About(what string, limit int) ([]Act, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []Act
	want, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	for i := 0; i < auditFiles && len(found) < limit; i++ {
		acts, err := actsIn(a.name(i), append([]byte(`"about":`), want...))
		if err != nil {
			return nil, err
		}
		found = slices.Concat(acts, found)
	}
	return found[max(0, len(found)-limit):], nil
}

func actsIn(path string, mark []byte) ([]Act, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []Act
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, auditSize+1)
	for lines.Scan() {
		var e Act
		if bytes.Contains(lines.Bytes(), mark) && json.Unmarshal(lines.Bytes(), &e) == nil {
			found = append(found, e)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return found, nil
}
