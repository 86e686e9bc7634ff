package lb

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// SystemCAs is the name under which the host's certificate authorities travel
// among the files of a configuration; pools whose tls names no ca want them. No
// file can have it.
const SystemCAs = "\x00system-cas"

// maxFiles is what all files of a configuration may have together.
const maxFiles = 64 << 20

// fileGroup is files that one part of the document uses together.
type fileGroup struct {
	files []fileName
	// check says what is wrong with contents, and with which of the files.
	check func(contents [][]byte) (at int, code, message string)
	// judge, instead, gives errors that have their places.
	judge func(o FileOptions, contents map[string][]byte) error
}

// fileName is a place of the document that names a file.
type fileName struct {
	name string
	at   Error // with nothing but the place
}

// fileAt is the name that stands at a decoded field.
func (v *validator) fileAt(name string, at any) fileName {
	place := v.places[at]
	if place.doc == nil {
		return fileName{name, Error{File: v.options.File}}
	}
	return fileName{name, *place.doc.errorNode(place.node, "", "", "")}
}

// files lists what the document wants of files.
func (v *validator) files() []fileGroup {
	var all []fileGroup
	pair := func(cert, key *string) {
		all = append(all, fileGroup{files: []fileName{v.fileAt(*cert, cert), v.fileAt(*key, key)}, check: checkPair})
	}
	for _, l := range v.config.Listeners {
		if l.TLS == nil {
			continue
		}
		for i := range l.TLS.Certificates {
			pair(&l.TLS.Certificates[i].Cert, &l.TLS.Certificates[i].Key)
		}
		if l.TLS.ClientCA != "" {
			all = append(all, fileGroup{files: []fileName{v.fileAt(l.TLS.ClientCA, &l.TLS.ClientCA)}, check: checkCAs})
		}
	}
	for _, r := range v.config.Routes {
		for _, f := range r.Filters {
			if len(f.files) > 0 {
				all = append(all, fileGroup{files: f.files, judge: f.judgeFiles})
			}
		}
	}
	for _, p := range v.config.Pools {
		t := p.TLS
		switch {
		case t == nil:
			continue
		case t.CA != "":
			all = append(all, fileGroup{files: []fileName{v.fileAt(t.CA, &t.CA)}, check: checkCAs})
		case !t.Insecure:
			all = append(all, fileGroup{files: []fileName{v.fileAt(SystemCAs, &p.TLS)}, check: checkCAs})
		}
		if t.Cert != "" {
			pair(&t.Cert, &t.Key)
		}
	}
	return all
}

// judgeFiles has the filter look at its files.
func (f FilterSpec) judgeFiles(o FileOptions, contents map[string][]byte) error {
	check := o.Filters[f.Name]
	if check == nil {
		return nil
	}
	err := check(f.Node.WithFiles(contents))
	var many Errors
	if err == nil || errors.As(err, &many) && many.placed() {
		return err
	}
	at := f.files[0].at
	at.Code, at.Message = CodeFileContent, fmt.Sprintf("filter %s: %s", f.Name, plainMessage(err))
	return Errors{&at}
}

// checkPair wants a certificate, its chain perhaps, and its key.
func checkPair(contents [][]byte) (at int, code, message string) {
	for i, holds := range []string{"certificate", "private key"} {
		if err := wholePEM(contents[i]); err != nil {
			return i, CodeFileContent, fmt.Sprintf("holds no whole %s: %v", holds, err)
		}
	}
	_, err := tls.X509KeyPair(contents[0], contents[1])
	if err == nil {
		return 0, "", ""
	}
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "tls: "), "x509: ")
	switch {
	case strings.Contains(text, "does not match"):
		return 1, CodeFilePair, "is not the key of the certificate beside it"
	case strings.Contains(text, "key input") || strings.Contains(text, "private key") && !strings.Contains(text, "certificate input"):
		return 1, CodeFileContent, "holds no private key: " + text
	}
	return 0, CodeFileContent, "holds no certificate: " + text
}

// checkCAs wants certificates of authorities.
func checkCAs(contents [][]byte) (at int, code, message string) {
	if err := wholePEM(contents[0]); err != nil {
		return 0, CodeFileContent, fmt.Sprintf("holds no certificate: %v", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(contents[0]) {
		return 0, CodeFileContent, "holds no certificate"
	}
	return 0, "", ""
}

// wholePEM wants PEM of which nothing is cut off: parsers stop without a word
// where a file that is being written ends.
func wholePEM(text []byte) error {
	block, rest := pem.Decode(text)
	if block == nil {
		if bytes.Contains(text, []byte("-----BEGIN ")) {
			return errors.New("a PEM block in it is not whole")
		}
		return errors.New("there is no PEM in it")
	}
	for block != nil {
		block, rest = pem.Decode(rest)
	}
	if bytes.Contains(rest, []byte("-----BEGIN ")) {
		return errors.New("its last PEM block is not whole")
	}
	return nil
}

// FileOptions says how ReadFiles gets at files.
type FileOptions struct {
	// Read returns the content of a file, named as the document names it, or of
	// SystemCAs.
	Read func(name string) ([]byte, error)
	// Known are contents that were good, such as those in use; what has not
	// changed since is not looked at again.
	Known map[string][]byte
	// Filters judge the files that filters name; they are those of Options.
	Filters map[string]func(Node) error
}

// ReadFiles reads every file that the document names and holds it against what
// the document wants of it. The error is an Errors: everything that is wrong,
// with its place. The contents are consistent all the same: what cannot be
// read, or is not right, is as it was in Known, a certificate together with its
// key; it is missing where Known does not have it.
func (c *Config) ReadFiles(o FileOptions) (map[string][]byte, error) {
	r := fileReader{o: o, contents: map[string][]byte{}, failed: map[string]error{}, undone: map[string]bool{}}
	good := make([]*fileGroup, 0, len(c.files))
	for i := range c.files {
		for _, f := range c.files[i].files {
			r.read(f.name)
		}
		good = append(good, &c.files[i])
	}
	// What is undone may be shared with groups that were right with the new
	// content, and are not with the old.
	for suspects := good; len(suspects) > 0; {
		wrong := map[*fileGroup]bool{}
		for _, g := range suspects {
			if !r.right(g) {
				wrong[g] = true
			}
		}
		good = slices.DeleteFunc(good, func(g *fileGroup) bool { return wrong[g] })
		clear(r.undone)
		for g := range wrong {
			r.undo(g)
		}
		suspects = nil
		for _, g := range good {
			if slices.ContainsFunc(g.files, func(f fileName) bool { return r.undone[f.name] }) {
				suspects = append(suspects, g)
			}
		}
	}
	return r.contents, r.errs.sorted()
}

// HasFiles reports whether no file of the document is missing.
func (c *Config) HasFiles(contents map[string][]byte) bool {
	for i := range c.files {
		for _, f := range c.files[i].files {
			if contents[f.name] == nil {
				return false
			}
		}
	}
	return true
}

// fileReader is one reading of all files.
type fileReader struct {
	o        FileOptions
	contents map[string][]byte
	failed   map[string]error // what could not be read
	undone   map[string]bool  // what was given its known content just now
	total    int
	errs     Errors
}

func (r *fileReader) read(name string) {
	if r.contents[name] != nil || r.failed[name] != nil {
		return
	}
	text, err := r.o.Read(name)
	if r.total += len(text); err == nil && r.total > maxFiles {
		err = fmt.Errorf("the files of this configuration have more than %d bytes together", maxFiles)
	}
	if err != nil {
		r.failed[name] = err
		return
	}
	r.contents[name] = append(make([]byte, 0, len(text)), text...) // never nil
}

// right reports whether a group is as the document wants it, and says what not.
func (r *fileReader) right(g *fileGroup) bool {
	ok, same := true, true
	contents := make([][]byte, len(g.files))
	for i, f := range g.files {
		if err := r.failed[f.name]; err != nil {
			r.report(f, CodeFileRead, "cannot read %s: %s", f.title(), plainCause(err))
			ok = false
		}
		known, had := r.o.Known[f.name]
		contents[i] = r.contents[f.name]
		ok = ok && contents[i] != nil // else it was undone, and there is none
		same = same && had && bytes.Equal(contents[i], known)
	}
	switch {
	case !ok || same:
		return ok
	case g.judge != nil:
		err := g.judge(r.o, r.contents)
		var many Errors
		errors.As(err, &many)
		r.errs = append(r.errs, many...)
		return err == nil
	}
	at, code, message := g.check(contents)
	if code != "" {
		r.report(g.files[at], code, "%s %s", g.files[at].title(), message)
	}
	return code == ""
}

// undo gives the files of a group their known contents.
func (r *fileReader) undo(g *fileGroup) {
	for _, f := range g.files {
		r.undone[f.name] = true
		if known, had := r.o.Known[f.name]; had {
			r.contents[f.name] = known
			delete(r.failed, f.name)
		} else {
			delete(r.contents, f.name)
		}
	}
}

func (r *fileReader) report(f fileName, code, format string, args ...any) {
	if len(r.errs) < maxErrors {
		e := f.at
		e.Code, e.Message = code, fmt.Sprintf(format, args...)
		r.errs = append(r.errs, &e)
	}
}

// title is the file in a message.
func (f fileName) title() string {
	if f.name == SystemCAs {
		return "the system's CAs"
	}
	return f.name
}

// plainCause is an error of reading a file without the path, which is said
// already.
func plainCause(err error) string {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}
