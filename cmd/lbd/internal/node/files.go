package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// Reader returns what reads the files that a configuration file names: a
// relative name is relative to its directory.
func Reader(config string) func(name string) ([]byte, error) {
	return func(name string) ([]byte, error) { return readBounded(pathOf(config, name), maxFile) }
}

func pathOf(config, name string) string {
	switch {
	case name == lb.SystemCAs:
		return systemCAs()
	case filepath.IsAbs(name):
		return name
	}
	return filepath.Join(filepath.Dir(config), name)
}

// bundles are where systems keep their certificate authorities, as crypto/x509
// knows them.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // newer ones
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/ssl/cert.pem",
}

func systemCAs() string {
	for _, path := range bundles {
		if _, err := os.Stat(path); err == nil {
			return cmp.Or(os.Getenv("SSL_CERT_FILE"), path)
		}
	}
	return cmp.Or(os.Getenv("SSL_CERT_FILE"), bundles[0])
}

// withFiles is r with the contents of its files. The error is everything that
// is wrong with them; what is wrong is as in known, if it is there.
func (n *Node) withFiles(r running, known map[string][]byte) (running, error) {
	var err error
	r.contents, err = r.listed.ReadFiles(lb.FileOptions{Read: Reader(r.file), Known: known, Filters: n.o.State.filters})
	r.files = digest(r.contents)
	r.pairs = certificates(r.listed, r.contents)
	return r, err
}

// How often the files are looked at. inotify would see a change at once, but
// not one behind a symbolic link (certbot, Kubernetes) unless every step of
// every path is watched; a look costs 1 to 2 us for each file. However many
// there are, looking takes no more than one part in lookShare of a CPU.
const (
	filesEvery = 2 * time.Second
	lookShare  = 50
	againAfter = 30 * time.Second // workers that refused
	restless   = 5                // looks, after which a file that keeps changing is read all the same
)

// stamp tells a file's states apart. What was written within one tick of the
// file system's clock looks alike, which does not matter: files are read only
// when they have been left alone from one look to the next.
type stamp struct {
	device, inode     uint64
	size              int64
	modified, changed unix.Timespec
}

// watcher notices that files changed and are left alone since.
type watcher struct {
	read, seen map[string]stamp
	looks      int // while they changed
}

// due reports whether files should be read.
func (w *watcher) due(paths []string) bool {
	now := stamps(paths)
	settled := maps.Equal(now, w.seen)
	w.seen = now
	if maps.Equal(now, w.read) {
		w.looks = 0
		return false
	}
	if w.looks++; !settled && w.looks < restless {
		return false
	}
	w.read, w.looks = now, 0
	return true
}

// stamps looks at files; one that is not there has the zero stamp.
func stamps(paths []string) map[string]stamp {
	all := make(map[string]stamp, len(paths))
	for _, path := range paths {
		var s unix.Stat_t
		if err := unix.Stat(path, &s); err != nil {
			all[path] = stamp{}
			continue
		}
		all[path] = stamp{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
	}
	return all
}

// runFiles reads the files that the configuration names again when they change.
func (n *Node) runFiles(ctx context.Context) {
	var w watcher
	pause := filesEvery
	var again time.Time // zero: the workers took what they were given last
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		began := time.Now()
		late := !again.IsZero() && began.After(again)
		if w.due(n.namedPaths()) || late {
			again = time.Time{}
			if err := n.renew(ctx); err != nil {
				again = began.Add(againAfter)
			}
		}
		pause = max(filesEvery, lookShare*time.Since(began))
	}
}

// renew gives the workers the files as they are now, with the document as it
// is: it is no new generation. Connections and requests notice nothing.
func (n *Node) renew(ctx context.Context) error {
	if err := n.changes.enter(ctx); err != nil {
		return err
	}
	defer n.changes.leave()
	now := n.snapshot.Load().running
	then, wrong := n.withFiles(now, now.contents)
	renewed := differing(now.contents, then.contents)
	if len(renewed) == 0 {
		return n.do(func() { n.noteFiles(wrong) })
	}
	if _, err := n.switchTo(ctx, then, edit{action: "renew", Asked: Asked{By: "lbd"}}); err != nil {
		n.do(func() { n.noteFiles(fmt.Errorf("the new content of %s is not used: %w", someFiles(renewed), err)) })
		return err
	}
	n.renewals.applied.Add(1)
	n.event(lb.Event{Kind: "files.renewed", Subject: someFiles(renewed), Detail: "generation " + then.generation.String()})
	return n.do(func() { n.noteFiles(wrong) })
}

// renewals counts what became of files that changed.
type renewals struct{ applied, refused atomic.Uint64 }

// noteFiles remembers what is wrong with the files, which the status shows, and
// tells of what is new. Called by run.
func (n *Node) noteFiles(err error) {
	lines := fileTroubles(err)
	if slices.Equal(lines, n.troubles.files) {
		return
	}
	n.troubles.files = lines
	if lines == nil {
		n.event(lb.Event{Kind: "files.mended", Subject: n.running.file})
		return
	}
	n.renewals.refused.Add(1)
	n.event(lb.Event{Kind: "files.refused", Subject: n.running.file, Detail: strings.Join(lines, "; ")})
}

// maxFileTroubles bounds how many lines the status has of files.
const maxFileTroubles = 10

func fileTroubles(err error) []string {
	var many lb.Errors
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &many):
		return []string{firstLine(err.Error())}
	}
	var lines []string
	for i, e := range many {
		if i == maxFileTroubles {
			return append(lines, fmt.Sprintf("and %d more", len(many)-i))
		}
		lines = append(lines, firstLine(e.Error())+"; what it held before is used")
	}
	return lines
}

// differing lists the files whose contents differ.
func differing(old, now map[string][]byte) []string {
	var names []string
	for name, text := range now {
		if had, ok := old[name]; !ok || !bytes.Equal(had, text) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// someFiles names a few of many files.
func someFiles(names []string) string {
	titles := slices.Clone(names)
	for i, name := range titles {
		if name == lb.SystemCAs {
			titles[i] = "the system's CAs"
		}
	}
	return someOf(titles)
}

// namedPaths lists the paths of the files that the running configuration names.
func (n *Node) namedPaths() []string {
	now := n.snapshot.Load().running
	paths := make([]string, 0, len(now.contents))
	for name := range now.contents {
		paths = append(paths, pathOf(now.file, name))
	}
	return paths
}
