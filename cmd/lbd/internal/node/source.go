package node

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/cirque-lb/lb"
)

// What is read at most.
const (
	maxDocument = 16 << 20
	maxFile     = 4 << 20 // one certificate, key or CA; lb bounds all of them
)

// source is the text a configuration is made of: the settings are the file's;
// the objects are the file's too, or stand in a document of their own.
type source struct {
	owner    Owner
	file     string // path of the configuration file
	settings []byte // its whole text
	objects  []byte // the document; nil when the file owns
	edited   string // what errors call the document
	edition  Edition
}

// holder is the text that holds the objects, which an operator edits.
func (s source) holder() []byte {
	if s.owner == OwnedDocument {
		return s.objects
	}
	return s.settings
}

// document is one text for the workers.
func (s source) document() []byte {
	if s.owner == OwnedFile {
		return s.settings
	}
	settings := bytes.TrimRight(lb.Settings(s.settings), "\n")
	return slices.Concat(settings, []byte("\n"), lb.Objects(s.objects)) // which is in blocks, without --- or braces around
}

func (s source) parse(filters map[string]func(lb.Node) error) (*lb.Config, error) {
	o := lb.Options{File: s.file, Objects: cmp.Or(s.edited, "the document"), Filters: filters}
	if s.owner == OwnedDocument {
		return lb.ParseWith(s.settings, s.objects, o)
	}
	return lb.Parse(s.settings, o)
}

// same reports whether both give the same configuration.
func (s source) same(o source) bool {
	return s.owner == o.owner && bytes.Equal(s.settings, o.settings) && bytes.Equal(s.objects, o.objects) &&
		s.edition.Generation == o.edition.Generation
}

// digest identifies the files' names and contents; it gives nothing away.
func digest(files map[string][]byte) string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		fmt.Fprintf(h, "%d %s %d ", len(name), name, len(files[name]))
		h.Write(files[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}
