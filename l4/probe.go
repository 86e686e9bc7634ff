package l4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/bpf"
)

// How peers are asked whether they live, and what silence means.
const (
	askEvery     = 500 * time.Millisecond
	suspectAfter = 2  // questions without an answer: the node sets may be about to change
	downAfter    = 3  // it is not asked about new connections any more
	silentAfter  = 6  // its datapath is gone, too: what gossip says is believed
	deadAfter    = 28 // it is dead, not just cut off: 14 s, a partition of 10 and time to agree again
)

// How long rows are young and tables unsettled.
const (
	youngFor     = 8 * time.Second // a SYN is repeated after 1, 3 and 7 s
	settlesIn    = 2 * time.Second
	unsettledFor = 15 * time.Second // in a row, whatever happens
	neverBeaten  = 0xffffffff
)

// A prober asks each peer's XDP program whether the node lives. A program
// answers without its daemon, so a restarting lbd is no dead node.
type prober struct {
	conn *net.UDPConn

	mu    sync.Mutex // guards the rest
	lives map[netip.Addr]*life
	tags  []uint32 // the first one signs, answers may have any
	view  uint16
}

// life is what a peer's program answered.
type life struct {
	asked   uint32 // number of the last question
	missed  int    // questions in a row without an answer
	heard   bool   // it has answered once
	view    uint16
	workers time.Duration // since their loops turned; < 0: not known
	since   time.Time     // of the last answer
}

func (l *life) suspected() bool { return l.heard && l.missed >= suspectAfter }
func (l *life) down() bool      { return l.heard && l.missed >= downAfter }
func (l *life) silent() bool    { return l.missed >= silentAfter }
func (l *life) dead() bool      { return l.missed >= deadAfter }

// newProber opens its socket in the network namespace of the caller.
func newProber(from netip.Addr) (*prober, error) {
	if !from.IsValid() {
		return nil, errors.New("node.address is not set")
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return nil, fmt.Errorf("open the socket that asks peers whether they live: %w", err)
	}
	if from.Is6() { // the programs send no checksums
		raw, err := conn.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1)
			})
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return &prober{conn: conn, lives: map[netip.Addr]*life{}}, nil
}

// pulse is a question or an answer, behind the UDP header.
const (
	pulseSize     = 20
	pulseQuestion = 1
	pulseAnswer   = 2
)

func (p *prober) question(n uint32) []byte {
	b := []byte{0x20 | 4, pulseQuestion, 0, 0, 0x10, 0x10}
	b = binary.BigEndian.AppendUint16(b, p.view)
	b = binary.BigEndian.AppendUint32(b, p.tags[0])
	b = binary.BigEndian.AppendUint32(b, n)
	return binary.BigEndian.AppendUint32(b, neverBeaten)
}

// follow replaces whom to ask.
func (p *prober) follow(peers []netip.Addr, tags []uint32, view uint16) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tags, p.view = slices.Clone(tags), view
	for _, a := range peers {
		if p.lives[a] == nil {
			p.lives[a] = &life{workers: -1}
		}
	}
	maps.DeleteFunc(p.lives, func(a netip.Addr, _ *life) bool { return !slices.Contains(peers, a) })
}

// ask sends each peer the next question. Without a tag there is no fabric.
func (p *prober) ask() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.tags) == 0 {
		return
	}
	for a, l := range p.lives {
		l.missed++ // until the answer comes
		l.asked++
		// An error is silence.
		_, _ = p.conn.WriteToUDPAddrPort(p.question(l.asked), netip.AddrPortFrom(a, bpf.TunnelPort))
	}
}

// runAnswers takes answers until the socket is closed.
func (p *prober) runAnswers() {
	b := make([]byte, 64)
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // else: an ICMP error about a question
			p.answered(from.Addr().Unmap(), b[:n])
		}
	}
}

func (p *prober) answered(from netip.Addr, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lives[from]
	if l == nil || len(b) != pulseSize || b[1] != pulseAnswer || binary.BigEndian.Uint32(b[12:]) != l.asked ||
		!slices.Contains(p.tags, binary.BigEndian.Uint32(b[8:])) {
		return
	}
	l.missed, l.heard, l.since = 0, true, time.Now()
	l.view = binary.BigEndian.Uint16(b[6:])
	l.workers = -1
	if ms := binary.BigEndian.Uint32(b[16:]); ms != neverBeaten {
		l.workers = time.Duration(ms) * time.Millisecond
	}
}

// state is what the answers say: whether somebody is suspected or sees other
// epochs, who is down, who is silent. Who is silent may be cut off from here and
// yet have clients, whose segments come here: to reset those at once would lose
// connections that live.
func (p *prober) state() (differing bool, down, silent []netip.Addr) {
	if p == nil {
		return false, nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, l := range p.lives {
		if l.suspected() && !l.dead() || l.heard && l.missed <= 1 && l.view != p.view {
			differing = true
		}
		if l.down() {
			down = append(down, a)
		}
		if l.silent() {
			silent = append(silent, a)
		}
	}
	slices.SortFunc(down, netip.Addr.Compare)
	slices.SortFunc(silent, netip.Addr.Compare)
	return differing, down, silent
}

func (p *prober) close() error {
	if p == nil {
		return nil
	}
	return p.conn.Close()
}

// runProbes asks, and keeps young_until, unsettled_until and who is down true.
func (d *Datapath) runProbes() {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
		}
		d.prober.ask()
		d.mu.Lock()
		d.judge()
		d.mu.Unlock()
	}
}

// judge takes in what the peers answered.
func (d *Datapath) judge() {
	differing, down, silent := d.prober.state()
	if !slices.Equal(down, d.down) || !slices.Equal(silent, d.silent) {
		d.down, d.silent = down, silent
		d.refreshWays()
	}
	n, now := d.have.node, monotonic()
	d.unsettled.extend(&n, differing, now)
	if n != d.have.node {
		d.kernel.storeNode(n)
		d.have.node = n
	}
}

// unsettled is since when the tables are, at a stretch.
type unsettled struct{ since uint64 }

// extend holds misses back for a while when there is a reason, but at most
// unsettledFor in a row, and takes away what is over: on the way of each packet
// a zero is cheaper than a time that has passed.
func (u *unsettled) extend(n *bpf.Node, reason bool, now uint64) {
	if n.UnsettledUntil <= now {
		n.UnsettledUntil = 0
		if !reason {
			u.since = 0
		}
	}
	if n.YoungUntil <= now {
		n.YoungUntil = 0
	}
	if !reason {
		return
	}
	if u.since == 0 {
		u.since = now
	}
	if until := min(now+uint64(settlesIn), u.since+uint64(unsettledFor)); until > now && until > n.UnsettledUntil {
		n.UnsettledUntil = until
	}
}

// renew is what a change of the epochs does to the node's words.
func (u *unsettled) renew(n *bpf.Node, now uint64) {
	n.YoungUntil = now + uint64(youngFor)
	u.extend(n, true, now)
}

// turning is how long ago a worker's loop turned at most, at a node that serves.
const turning = 5 * time.Second

// Turning lists the peers whose workers serve, by what their programs answer:
// also when nothing else is heard of them.
func (d *Datapath) Turning() (peers []netip.Addr) {
	if d.prober == nil {
		return nil
	}
	d.prober.mu.Lock()
	defer d.prober.mu.Unlock()
	for a, l := range d.prober.lives {
		if l.heard && !l.silent() && l.workers >= 0 && l.workers < turning {
			peers = append(peers, a)
		}
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	return peers
}

// Pulse is the descriptor of the array where workers say that their loops turn;
// 0: there is none. It is open until Close.
func (d *Datapath) Pulse() int {
	if d.kernel == nil {
		return 0
	}
	return d.kernel.Pulse.FD()
}

// Silent lists the peers whose programs do not answer, either: they are dead,
// or cut off.
func (d *Datapath) Silent() []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.silent)
}

// probed are the peers to ask: all but ourselves.
func (d *Datapath) probed() (peers []netip.Addr) {
	for index, address := range d.have.peers {
		if index != bpf.Self {
			peers = append(peers, address.Addr())
		}
	}
	return peers
}
