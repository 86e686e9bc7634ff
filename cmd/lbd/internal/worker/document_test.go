package worker

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestADocumentsFilesComeOutAsTheyWentIn(t *testing.T) {
	for name, files := range map[string]map[string][]byte{
		"none":   nil,
		"one":    {"a": []byte("x")},
		"empty":  {"a": {}, "b": nil},
		"many":   {"a": []byte("1"), "\x00found": []byte("22"), "b": {}, "c": bytes.Repeat([]byte("3"), 1<<20)},
		"binary": {"k\xff": {0, 255, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			var d document
			if err := d.pack(files); err != nil {
				t.Fatal(err)
			}
			var fds []int
			for _, fd := range d.fds() {
				n, err := unix.Dup(fd)
				if err != nil {
					t.Fatal(err)
				}
				fds = append(fds, n)
				if _, err := unix.Write(n, []byte("x")); err == nil {
					t.Error("a worker can write into the memory that others read")
				}
			}
			got, err := d.unpack(fds)
			if err != nil || !maps.EqualFunc(got, files, bytes.Equal) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestAMemoryThatIsNotWholeIsRefused(t *testing.T) {
	file, count := sent(t)
	open := func() int {
		fd, err := unix.Open(file.Name(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for _, c := range []struct {
		spans []fileSpan
		fds   []int
	}{
		{[]fileSpan{{"a", 1}}, nil},
		{nil, []int{open(), open()}},
		{[]fileSpan{{"a", 1}}, []int{open()}},
		{[]fileSpan{{"a", -1}}, []int{open()}},
		{[]fileSpan{{"a", maxContents}, {"b", 1}}, []int{open()}},
	} {
		d := document{Files: c.spans}
		if _, err := d.unpack(c.fds); err == nil {
			t.Errorf("%v with %d descriptors is accepted", c.spans, len(c.fds))
		}
		if d.memory != nil {
			d.memory.Close()
		}
	}
	if n := count(); n != 1 {
		t.Errorf("the file is open %d times", n)
	}
}

// 10 000 certificates with their keys are more than one message holds.
func TestManyFilesReachEveryWorkerAndTheNextSupervisor(t *testing.T) {
	dir, port := shortDir(t), freePort(t)
	f := openFleet(t, dir)
	u := update(1, documentOn(port))
	u.Files = map[string][]byte{}
	for i := range 20_000 {
		u.Files[fmt.Sprint("file ", i)] = bytes.Repeat([]byte{byte(i)}, 3000)
	}
	const size = 20_000 * 3000
	apply(t, f, u)
	everybody := func(when string) {
		t.Helper()
		seen := map[int]bool{}
		for range 32 {
			a := ask(t, fmt.Sprintf("127.0.0.1:%d", port))
			if seen[a.PID] = true; a.Files != size {
				t.Fatalf("%s: worker %s has %d bytes of files, want %d", when, a.Worker, a.Files, size)
			}
		}
		if len(seen) != 2 {
			t.Errorf("%s: only %v answered", when, slices.Collect(maps.Keys(seen)))
		}
	}
	everybody("at first")
	f.Close()
	again := openFleet(t, dir)
	if got := again.Adopted(); got == nil || !maps.EqualFunc(got.Files, u.Files, bytes.Equal) {
		t.Fatal("the next supervisor does not find the files")
	}
	if err := again.Upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	everybody("after an upgrade")
}
