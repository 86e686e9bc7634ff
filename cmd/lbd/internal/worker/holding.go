package worker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// holding is the listening sockets of a worker: duplicates of all that there
// are, and of some of them a second one that a loop accepts on.
type holding struct {
	held      map[socketName]int
	running   map[socketName]accepting
	listeners map[netip.AddrPort]string // the listener of a bind, by the configuration
}

// accepting is a socket that a loop of the proxy accepts on.
type accepting struct {
	thread   int
	listener string
	fd       int // the proxy's
}

func newHolding() holding {
	return holding{map[socketName]int{}, map[socketName]accepting{}, map[netip.AddrPort]string{}}
}

// hold keeps a socket; one that we have already is the same one.
func (s *holding) hold(name socketName, fd int) {
	if _, twice := s.held[name]; twice {
		unix.Close(fd)
		return
	}
	s.held[name] = fd
}

func (s *holding) drop(server Server, name socketName) {
	if a, ok := s.running[name]; ok {
		server.StopAccept(a.listener, a.fd)
		delete(s.running, name)
	}
	if fd, ok := s.held[name]; ok {
		unix.Close(fd)
		delete(s.held, name)
	}
}

// closeAll lets go of everything; what loops accept on is the proxy's to close.
func (s *holding) closeAll() {
	clear(s.running)
	for name, fd := range s.held {
		unix.Close(fd)
		delete(s.held, name)
	}
}

// list gives all sockets in an order that does not change between calls.
func (s *holding) list() (names []socketName, fds []int) {
	for name := range s.held {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b socketName) int {
		if c := a.Bind.Compare(b.Bind); c != 0 {
			return c
		}
		return a.Slot - b.Slot
	})
	for _, name := range names {
		fds = append(fds, s.held[name])
	}
	return names, fds
}

// wanted is what shall be accepted on, given the thread of each slot.
func (s *holding) wanted(threads map[int]int) map[socketName]accepting {
	out := map[socketName]accepting{}
	for name := range s.held {
		listener, configured := s.listeners[name.Bind]
		if thread, ours := threads[name.Slot]; ours && configured {
			out[name] = accepting{thread: thread, listener: listener}
		}
	}
	return out
}

// become starts what is wanted, then stops what is not.
func (s *holding) become(server Server, want map[socketName]accepting) error {
	var errs []error
	var stop []accepting
	for name, now := range s.running {
		if w, ok := want[name]; !ok || w.thread != now.thread || w.listener != now.listener {
			stop = append(stop, now)
			delete(s.running, name)
		}
	}
	for name, w := range want {
		if _, ok := s.running[name]; ok {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(s.held[name]), unix.F_DUPFD_CLOEXEC, 10)
		if err == nil {
			w.fd = fd
			err = server.Accept(w.thread, w.listener, fd)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("accept on slot %d of %s: %w", name.Slot, name.Bind, err))
			continue
		}
		s.running[name] = w
	}
	for _, a := range stop {
		server.StopAccept(a.listener, a.fd)
	}
	return errors.Join(errs...)
}
