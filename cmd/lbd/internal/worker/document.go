package worker

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// document is a configuration on the wire. The contents of its files travel in
// a memory file beside the message: as JSON they would be a third larger, and
// every worker would have a copy of its own for as long as it serves them, to
// give to the next supervisor.
type document struct {
	Generation uint64     `json:"generation"`
	File       string     `json:"file"`
	Text       []byte     `json:"text"`
	Files      []fileSpan `json:"spans,omitempty"` // in the order of the memory

	memory *os.File // nil: there are no files. Never closed by hand: whoever sends it may be about to
}

// fileSpan is one file's part of the memory.
type fileSpan struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

// fds are what travels with the message.
func (d *document) fds() []int {
	if d.memory == nil {
		return nil
	}
	return []int{int(d.memory.Fd())}
}

// pack puts contents into a document. The memory is sealed: workers share it,
// and none may change what others read.
func (d *document) pack(contents map[string][]byte) error {
	d.Files, d.memory = nil, nil
	if len(contents) == 0 {
		return nil
	}
	fd, err := unix.MemfdCreate("lbd-files", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("make memory for the configuration's files: %w", err)
	}
	d.memory = os.NewFile(uintptr(fd), "lbd-files")
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		if _, err := d.memory.Write(contents[name]); err != nil {
			return fmt.Errorf("copy the configuration's files: %w", err)
		}
		d.Files = append(d.Files, fileSpan{name, len(contents[name])})
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("seal the configuration's files: %w", err)
	}
	return nil
}

// maxContents bounds what is read of a memory.
const maxContents = 128 << 20

// unpack reads the files of a document that came with these descriptors, and
// keeps the memory. It owns the descriptors.
func (d *document) unpack(fds []int) (map[string][]byte, error) {
	if len(d.Files) == 0 && len(fds) == 0 {
		return nil, nil
	}
	if len(fds) != 1 {
		closeAll(fds)
		return nil, fmt.Errorf("%d descriptors for the files of a configuration", len(fds))
	}
	d.memory = os.NewFile(uintptr(fds[0]), "lbd-files")
	total := 0
	for _, f := range d.Files {
		if total += f.Size; f.Size < 0 || total > maxContents {
			return nil, fmt.Errorf("the files of a configuration have more than %d bytes", maxContents)
		}
	}
	text := make([]byte, total)
	if _, err := d.memory.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("read the configuration's files: %w", err)
	}
	contents := make(map[string][]byte, len(d.Files))
	for _, f := range d.Files {
		contents[f.Name], text = text[:f.Size:f.Size], text[f.Size:]
	}
	return contents, nil
}

// pack makes the update ready to be sent.
func (u *Update) pack() error {
	u.packed = document{Generation: u.Generation, File: u.File, Text: u.Document}
	return u.packed.pack(u.Files)
}
