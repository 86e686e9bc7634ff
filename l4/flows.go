package l4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// An epoch is needed as long as a connection lives that only it finds: one of a
// row that it gave to this node and no newer epoch does. The kernel's own list
// of sockets says which connections live, and the rows' hash is the same here.

// stragglersAtOnce is how many connections one answer names; the next scan
// names the rest.
const stragglersAtOnce = 8192

// Holding is what the connections of this node need an earlier epoch for.
type Holding struct {
	Epoch uint64 // its digest
	Flows int
	Some  []Flow // of them
}

// Flow is a connection of this node; the cookie tells it from a later one.
type Flow struct {
	lb.Tuple
	Cookie [2]uint32
}

// Holdings lists the earlier epochs of the last Apply that some connection
// here needs, newest first, and how many connections it looked at.
func (d *Datapath) Holdings() (held []Holding, looked int, err error) {
	if d.diag == nil {
		return nil, 0, errors.New("the kernel does not list its sockets")
	}
	d.mu.Lock()
	c := newClaims(d.steering, d.boot, d.planner.ownersOf)
	d.mu.Unlock()
	if len(c.epochs) < 2 {
		return nil, 0, nil
	}
	found := make([]Holding, len(c.epochs))
	err = d.diag.each(func(t Flow) {
		if !c.serves(t.Dst) {
			return
		}
		looked++
		i := c.needed(rowOf(rowHash(c.steering, t.Tuple)))
		if i <= 0 {
			return
		}
		h := &found[i]
		h.Epoch = c.epochs[i].digest
		if h.Flows++; len(h.Some) < stragglersAtOnce {
			h.Some = append(h.Some, t)
		}
	})
	return slices.DeleteFunc(found, func(h Holding) bool { return h.Flows == 0 }), looked, err
}

// Destroy closes connections from below, whoever has them open, and counts
// those that were still there. Clients get an RST.
func (d *Datapath) Destroy(flows []Flow) (n int, err error) {
	if d.diag == nil {
		return 0, errors.New("the kernel destroys no sockets for us")
	}
	var errs []error
	for _, t := range flows {
		switch err := d.diag.destroy(t); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESTALE):
			errs = append(errs, fmt.Errorf("destroy %s: %w", t.Tuple, err))
		}
	}
	d.destroyed.Add(uint64(n))
	return n, errors.Join(errs...)
}

// claims are the rows that each epoch gave to this node.
type claims struct {
	steering lb.Steering
	epochs   []claim
	vips     map[netip.AddrPort]bool
}

type claim struct {
	digest uint64
	owners []int16
	self   int16 // our index among the members; -1: not listed, or in an earlier life
}

func newClaims(s lb.Steering, boot lb.BootID, owners func(lb.Epoch) []int16) *claims {
	c := &claims{steering: s, vips: map[netip.AddrPort]bool{}}
	for _, e := range s.Epochs {
		self := slices.IndexFunc(e.Members, func(m lb.Member) bool { return m.Name == s.Self && m.Boot == boot })
		c.epochs = append(c.epochs, claim{e.Digest(), owners(e), int16(self)})
	}
	for _, v := range s.VIPs {
		if v.Protocol == lb.TCP {
			c.vips[netip.AddrPortFrom(v.Addr, v.Port)] = true
		}
	}
	return c
}

func (c *claims) serves(a netip.AddrPort) bool {
	return c.vips[a] || c.vips[netip.AddrPortFrom(a.Addr(), 0)]
}

// needed is the newest epoch that gives the row to this node; -1: none does.
func (c *claims) needed(row int) int {
	return slices.IndexFunc(c.epochs, func(e claim) bool { return e.self >= 0 && e.owners[row] == e.self })
}

// diag asks the kernel for its TCP sockets, in the network namespace that it
// was opened in.
type diag struct {
	mu sync.Mutex // one question at a time
	fd int
}

func newDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open the list of sockets: %w", err)
	}
	timeout := unix.Timeval{Sec: 2}
	return &diag{fd: fd}, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
}

func (s *diag) close() error {
	if s == nil {
		return nil
	}
	return unix.Close(s.fd)
}

const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	// The states of connections: not listening, closed or in TIME_WAIT.
	connected = 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11 | 1<<12
)

// diagID names a socket, as the kernel lays it out; all but the rest in network
// order.
type diagID struct {
	Sport, Dport [2]byte
	Src, Dst     [16]byte
	If           uint32
	Cookie       [2]uint32
}

type diagRequest struct {
	Header                   unix.NlMsghdr
	Family, Protocol, Ext, _ uint8
	States                   uint32
	ID                       diagID
}

type diagMessage struct {
	Family, State, Timer, Retrans uint8
	ID                            diagID
	Expires, Rqueue, Wqueue       uint32
	UID, Inode                    uint32
}

func (s *diag) ask(r diagRequest) error {
	r.Header.Len = uint32(unsafe.Sizeof(r))
	r.Protocol = unix.IPPROTO_TCP
	b := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	return unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// each lists every connection, the remote end as source.
func (s *diag) each(f func(Flow)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		r := diagRequest{Family: family, States: connected}
		r.Header = unix.NlMsghdr{Type: sockDiagByFamily, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP}
		if err := s.ask(r); err != nil {
			return err
		}
		if err := s.answers(func(m *diagMessage) { f(Flow{m.ID.tuple(m.Family), m.ID.Cookie}) }); err != nil {
			return fmt.Errorf("list the sockets: %w", err)
		}
	}
	return nil
}

// destroy closes one connection; ENOENT or ESTALE: it is not there. Without its
// cookie, the kernel would find the listening socket in place of one that is
// gone, and destroy that.
func (s *diag) destroy(t Flow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := diagRequest{Family: unix.AF_INET6, States: 1<<13 - 1}
	r.Header = unix.NlMsghdr{Type: sockDestroy, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK}
	if t.Dst.Addr().Unmap().Is4() {
		r.Family = unix.AF_INET
	}
	binary.BigEndian.PutUint16(r.ID.Sport[:], t.Dst.Port())
	binary.BigEndian.PutUint16(r.ID.Dport[:], t.Src.Port())
	copy(r.ID.Src[:], unmapped(t.Dst.Addr()))
	copy(r.ID.Dst[:], unmapped(t.Src.Addr()))
	r.ID.Cookie = t.Cookie
	if err := s.ask(r); err != nil {
		return err
	}
	return s.answers(func(*diagMessage) {})
}

// answers reads to the end of an answer.
func (s *diag) answers(f func(*diagMessage)) error {
	b := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(s.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for m := b[:n]; len(m) >= unix.SizeofNlMsghdr; {
			h := (*unix.NlMsghdr)(unsafe.Pointer(&m[0]))
			if int(h.Len) < unix.SizeofNlMsghdr || int(h.Len) > len(m) {
				return unix.EBADMSG
			}
			body := m[unix.SizeofNlMsghdr:h.Len]
			switch {
			case h.Type == unix.NLMSG_DONE:
				return nil
			case h.Type == unix.NLMSG_ERROR && len(body) >= 4:
				if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
					return unix.Errno(errno)
				}
				return nil
			case len(body) >= int(unsafe.Sizeof(diagMessage{})):
				f((*diagMessage)(unsafe.Pointer(&body[0])))
			}
			m = m[min(len(m), (int(h.Len)+3)&^3):]
		}
	}
}

func (i *diagID) tuple(family uint8) lb.Tuple {
	address := func(a [16]byte) netip.Addr {
		if family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(a[:4]))
		}
		return netip.AddrFrom16(a).Unmap()
	}
	return lb.Tuple{
		Protocol: lb.TCP,
		Src:      netip.AddrPortFrom(address(i.Dst), binary.BigEndian.Uint16(i.Dport[:])),
		Dst:      netip.AddrPortFrom(address(i.Src), binary.BigEndian.Uint16(i.Sport[:])),
	}
}
