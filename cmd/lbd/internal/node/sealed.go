package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A sealed file is one line with a checksum, then JSON. It is replaced by a
// rename after fsync, so that it is old or new, and a file that is neither
// (a torn disk, an editor) is noticed. Each file has one temporary name, so
// that who dies while writing leaves at most one behind, which the next write
// takes over.
const sealPrefix = "cirque-state 1 sha256:"

// maxSealed bounds what is read: a document is at most 16 MiB, twice that as JSON.
const maxSealed = 64 << 20

var errCorrupt = errors.New("its checksum does not fit its content")

func writeSealed(path string, v any) error {
	body, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	sum := sha256.Sum256(body)
	text := append([]byte(sealPrefix+hex.EncodeToString(sum[:])+"\n"), body...)
	before, err := readBounded(path, maxSealed)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := putSynced(path, text); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = passed("renamed " + filepath.Base(path)); err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		// It is said not to be kept, so it must not be found by the next start.
		if before == nil {
			return errors.Join(err, os.Remove(path))
		}
		return errors.Join(err, putBack(path, before))
	}
	return nil
}

// putSynced makes text the content of path: by a rename, of what the disk has.
func putSynced(path string, text []byte) error {
	fresh := path + ".new"
	err := writeSynced(fresh, text)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
	}
	return err
}

// putBack gives a file its content from before, on a disk that has just failed:
// it asks nothing of it that may fail again.
func putBack(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// passed is told of each step of a write; tests die there, or have it fail.
var passed = func(step string) error { return nil }

// writeSynced writes a new file and has the disk keep it.
func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := passed("created " + filepath.Base(path)); err != nil {
		return err
	}
	for _, part := range [][]byte{text[:len(text)/2], text[len(text)/2:]} {
		if _, err := f.Write(part); err != nil {
			return err
		}
		if err := passed("wrote a part of " + filepath.Base(path)); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := passed("synced " + filepath.Base(path)); err != nil {
		return err
	}
	return f.Close()
}

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	err = d.Sync()
	if err == nil {
		err = passed("synced the directory of " + filepath.Base(dir))
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// readSealed reads what writeSealed wrote; errCorrupt when it is something else.
func readSealed(path string, v any) error {
	text, err := readBounded(path, maxSealed)
	if err != nil {
		return err
	}
	head, body, _ := bytes.Cut(text, []byte("\n"))
	sum := sha256.Sum256(body)
	if string(head) != sealPrefix+hex.EncodeToString(sum[:]) {
		return fmt.Errorf("read %s: %w", path, errCorrupt)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read %s: %w: %w", path, errCorrupt, err)
	}
	return nil
}

// readBounded reads a whole file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", path, limit)
	}
	return text, nil
}

// setAside keeps a corrupt file for whoever wants to know what happened.
func setAside(path string) string {
	aside := path + ".corrupt"
	if err := os.Rename(path, aside); err != nil {
		return path // it stays where it is; the next write replaces it
	}
	return aside
}
