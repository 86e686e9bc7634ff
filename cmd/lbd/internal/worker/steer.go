package worker

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// steer points a group's new connections at its live slots. With all live, or
// none, the kernel's own hash decides: an empty group would make clients hang
// where they can at least be lucky. It needs no privilege. Where the datapath's
// sk_lookup program decides, this one is not asked.
func (g *group) steer(live []bool) error {
	if len(g.fds) == 0 || slices.Equal(live, g.live) {
		return nil
	}
	if all(live) || !slices.Contains(live, true) {
		err := unix.SetsockoptInt(g.fds[0], unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
		if err != nil && err != unix.ENOENT {
			return fmt.Errorf("steer %s by the kernel's hash: %w", g.actual, err)
		}
	} else if err := attach(g.fds[0], steering(live)); err != nil {
		return fmt.Errorf("steer %s to its live slots: %w", g.actual, err)
	}
	g.live = slices.Clone(live)
	return nil
}

func all(live []bool) bool { return !slices.Contains(live, false) }

// maxSteered bounds the program: 4096 instructions are allowed.
const maxSteered = 2000

// steering is a classic BPF program that returns the number of a live slot, at
// random. The group is asked for SYNs (and for the ACKs of SYN cookies, which
// any slot of the group honours), so no flow needs to find the same slot again.
func steering(live []bool) []unix.SockFilter {
	const (
		loadRandom = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		random     = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM
		modulo     = unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K
		equal      = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret        = unix.BPF_RET | unix.BPF_K
	)
	var slots []uint32
	for i, ok := range live {
		if ok && len(slots) < maxSteered {
			slots = append(slots, uint32(i))
		}
	}
	program := []unix.SockFilter{{Code: loadRandom, K: random}, {Code: modulo, K: uint32(len(slots))}}
	for i, slot := range slots[:len(slots)-1] {
		program = append(program,
			unix.SockFilter{Code: equal, Jf: 1, K: uint32(i)},
			unix.SockFilter{Code: ret, K: slot})
	}
	return append(program, unix.SockFilter{Code: ret, K: slots[len(slots)-1]})
}

func attach(fd int, program []unix.SockFilter) error {
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		uintptr(unsafe.Pointer(&fprog)), unsafe.Sizeof(fprog), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
