package l7

import (
	"testing"
	"unsafe"

	"github.com/cirque-lb/lb/l7/loop"
)

// What an idle connection of a client holds; a hundred thousand of them are
// usual. The sizes are those of the allocator's classes.
func TestAnIdleConnectionIsSmall(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"serverH1", unsafe.Sizeof(serverH1{}), 240},
		{"client", unsafe.Sizeof(client{}), 48},
		{"loop.Conn", unsafe.Sizeof(loop.Conn{}), 104},
		{"loop.Timer", unsafe.Sizeof(loop.Timer{}), 48},
	} {
		if c.got > c.want {
			t.Errorf("%s has %d bytes, want %d at most", c.name, c.got, c.want)
		}
	}
}
