package worker

import (
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// beating has loops that turned at one moment.
type beating struct {
	Server
	at atomic.Int64
}

func (b *beating) Beats() []time.Time { return []time.Time{{}, time.Unix(0, b.at.Load())} }

func TestAWorkerSaysWhetherItsLoopsTurn(t *testing.T) {
	fd, err := unix.MemfdCreate("pulse", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, 4096)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	memory, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	word := func() uint64 { return atomic.LoadUint64((*uint64)(unsafe.Pointer(&memory[0]))) }
	b := &beating{}
	p := &process{server: b}
	for range 2 { // a restarted supervisor sends it again
		if err := p.pulse([]int{fd}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(3 * beatEvery)
	if n := word(); n != 0 {
		t.Errorf("loops that do not turn have a pulse: %d", n)
	}
	for deadline := time.Now().Add(10 * time.Second); word() == 0; time.Sleep(10 * time.Millisecond) {
		b.at.Store(time.Now().UnixNano())
		if time.Now().After(deadline) {
			t.Fatal("loops that turn have none")
		}
	}
	if err := p.pulse(nil); err == nil {
		t.Error("a pulse without a descriptor is taken")
	}
}
