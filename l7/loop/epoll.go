package loop

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// register puts a descriptor under epoll's eye.
func (l *Loop) register(fd int, events uint32, t target) (index, generation uint32, err error) {
	if len(l.free) == 0 {
		l.grow()
	}
	index = l.free[len(l.free)-1]
	e := l.entry(index)
	if err := l.control(unix.EPOLL_CTL_ADD, fd, events, index, e.generation); err != nil {
		return 0, 0, fmt.Errorf("add descriptor %d to epoll: %w", fd, err)
	}
	l.free = l.free[:len(l.free)-1]
	e.target = t
	return index, e.generation, nil
}

// grow makes room for one more page of descriptors.
func (l *Loop) grow() {
	first := uint32(len(l.table) * pageSize)
	l.table = append(l.table, new([pageSize]entry))
	for i := range uint32(pageSize) {
		l.free = append(l.free, first+pageSize-1-i)
	}
}

func (l *Loop) entry(index uint32) *entry { return &l.table[index/pageSize][index%pageSize] }

// release frees an index; events under way for it are stale from now on.
func (l *Loop) release(index uint32) {
	e := l.entry(index)
	e.generation++
	e.target = nil
	l.free = append(l.free, index)
}

func (l *Loop) control(op, fd int, events, index, generation uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(index), Pad: int32(generation)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(&event)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// wait returns how many events there are. Under load it finds some at once, or
// while it naps.
func (l *Loop) wait() (int, error) {
	switch {
	case l.unfinished():
		return l.nap(0)
	case len(l.dials) > 0: // they wait for the kernel
		return l.nap(napTime)
	}
	if n, err := l.nap(napTime); n > 0 || err != nil {
		return n, err
	}
	now := time.Since(l.start)
	l.noteTurn(now)
	l.slept = true
	timeout := min(l.wheel.next(now), maxSleep)
	l.naps.Add(1)
	n, err := l.sleep(timeout)
	l.naps.Add(1)
	return n, err
}

// unfinished reports whether the last turn left something to do.
func (l *Loop) unfinished() bool {
	return len(l.later) > 0 || len(l.dirty) > 0 || len(l.known) > 0 || len(l.dials) > 0 && l.strain.level() == wantNothing
}

// nap blocks shortly, without telling the scheduler. A stop of the world ends it
// by its signal.
func (l *Loop) nap(timeout time.Duration) (int, error) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll),
		uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), uintptr(timeout/time.Millisecond), 0, 0)
	return waited(n, errno)
}

// sleep is the one call that goes through the scheduler, which may have the
// processor meanwhile.
func (l *Loop) sleep(timeout time.Duration) (int, error) {
	ms := (timeout + time.Millisecond - 1) / time.Millisecond
	n, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll),
		uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), uintptr(ms), 0, 0)
	return waited(n, errno)
}

func waited(n uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("wait for events: %w", errno)
}

// rawRead reads from a socket. recv costs less than read, which goes through the
// file layer and its position lock first.
func rawRead(fd int, p []byte) (int, syscall.Errno) { return raw(unix.SYS_RECVFROM, fd, p) }

// rawWrite writes. send would cost less, too, but the engine's benchmark writes to
// what is no socket.
func rawWrite(fd int, p []byte) (int, syscall.Errno) { return raw(unix.SYS_WRITE, fd, p) }

// raw is a call that moves bytes, without telling the scheduler: fd must be
// non-blocking.
func raw(call uintptr, fd int, p []byte) (int, syscall.Errno) {
	p = p[:min(len(p), MaxIO)]
	for {
		n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// rawWrite2 writes a, then b, in one call.
func rawWrite2(fd int, a, b []byte) (int, syscall.Errno) {
	b = b[:min(len(b), max(0, MaxIO-len(a)))]
	vector := [2]unix.Iovec{{Base: unsafe.SliceData(a), Len: uint64(len(a))}, {Base: unsafe.SliceData(b), Len: uint64(len(b))}}
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&vector)), 2)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// NonBlocking makes sure that fd does not block. O_NONBLOCK lives in the open
// file description, which other processes share, so it is checked and not
// assumed: a raw system call on a blocking descriptor stops the whole process.
func NonBlocking(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("read flags of descriptor %d: %w", fd, err)
	}
	if flags&unix.O_NONBLOCK != 0 {
		return nil
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("make descriptor %d non-blocking: %w", fd, err)
	}
	return nil
}
