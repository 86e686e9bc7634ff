package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb/l7"
)

// Live connections go from an old worker to a new one directly, over a pair of
// sockets that the supervisor gives to both: it may die meanwhile. The old one
// sends a batch and keeps duplicates until the new one has answered; what is
// refused, or is not taken because the new one is gone, it goes on with itself,
// and drains. The new one reads nothing of a connection before its answer is on
// its way: one that dies without an answer has lost nobody a byte.

// A batch's bounds. One connection may have as many sockets as two.
const (
	maxBatchBytes      = 4 << 20
	defaultMoveTimeout = 10 * time.Second
)

// moveTimeout is for the answer to one batch; tests wait less.
var moveTimeout = defaultMoveTimeout

// mover is a Server that can hand connections over; see l7.Proxy.
type mover interface {
	Export(give func(l7.Handed))
	Gave(n int)
	Accepts(l7.Handed) error
	Import(l7.Handed) error
	TakeBack(l7.Handed)
}

// batch is some connections on their way. The descriptors of all of them are
// those of the message, in order.
type batch struct {
	Connections []moved `json:"connections"`
}

type moved struct {
	l7.Handed
	Sockets int `json:"sockets"`
}

// verdict lists, by number, what of a batch was refused, and why the first was.
type verdict struct {
	Refused []int  `json:"refused,omitempty"`
	Why     string `json:"why,omitempty"`
}

// move pairs old workers with new ones. A worker that does not know how drains.
func (f *Fleet) move(old, fresh []*member) {
	if len(fresh) == 0 {
		return
	}
	for i, m := range old {
		to := fresh[i%len(fresh)]
		f.mu.Lock()
		from := m.conn
		f.mu.Unlock()
		if from == nil || to.conn == nil {
			continue
		}
		if err := f.pair(from, to.conn); err != nil {
			f.options.Log.Info("live connections stay with an old worker and drain", "worker", m.name(), "why", err)
		}
	}
}

// moveAgain gives old workers somebody else to hand connections to: who took
// them may have died.
func (f *Fleet) moveAgain() {
	f.mu.Lock()
	leaving := slices.Clone(f.leaving)
	current := f.crew
	f.mu.Unlock()
	f.move(leaving, f.members(current))
}

// pair connects a worker that gives with one that takes.
func (f *Fleet) pair(from, to *conn) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeAll(ends[:])
	if _, err := to.quick(f.ctx, opTake, nil, ends[:1], nil); err != nil {
		return err
	}
	_, err = from.quick(f.ctx, opGive, nil, ends[1:], nil)
	return err
}

// line makes a connection of the descriptor that came with a message.
func (m message) line() (*conn, error) {
	if len(m.fds) != 1 {
		return nil, fmt.Errorf("%d descriptors of a line; expected 1", len(m.fds))
	}
	dup, err := unix.FcntlInt(uintptr(m.fds[0]), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(dup), "line")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return newConn(c.(*net.UnixConn)), nil
}

var errImmobile = errors.New("this worker cannot hand connections over")

// take goes on with what comes from an old worker.
func (p *process) take(m message) error {
	server, ok := p.server.(mover)
	if !ok {
		return errImmobile
	}
	c, err := m.line()
	if err != nil {
		return err
	}
	go p.runTake(c, server)
	return nil
}

// runTake ends when the giver has ended.
func (p *process) runTake(c *conn, server mover) {
	defer c.close()
	for {
		m, err := c.receive()
		if err != nil {
			return
		}
		var b batch
		if err := json.Unmarshal(m.Body, &b); err != nil {
			closeAll(m.fds)
			return
		}
		v, taken := judge(server, b, m.fds)
		err = c.send(message{ID: m.ID}, v, nil)
		// A giver that cannot hear it any more has let go of them, too.
		p.importAll(server, taken)
		if err != nil {
			return
		}
	}
}

// judge says what of a batch is refused, and closes that.
func judge(server mover, b batch, fds []int) (v verdict, taken []l7.Handed) {
	for i, h := range b.Connections {
		n := min(max(h.Sockets, 0), len(fds))
		h.FDs, fds = fds[:n:n], fds[n:]
		if err := server.Accepts(h.Handed); err != nil {
			closeAll(h.FDs)
			v.Refused = append(v.Refused, i)
			if v.Why == "" {
				v.Why = err.Error()
			}
			continue
		}
		taken = append(taken, h.Handed)
	}
	closeAll(fds)
	return v, taken
}

func (p *process) importAll(server mover, all []l7.Handed) {
	for _, h := range all {
		if err := server.Import(h); err != nil { // a change of the configuration since it was judged
			p.log.Warn("a connection that was handed over is closed", "listener", h.Listener, "err", err)
			closeAll(h.FDs)
		}
	}
}

// giver hands the connections of a worker over. The loops fill its queue.
type giver struct {
	process *process
	server  mover
	line    *conn
	wake    chan struct{}
	another chan *conn // a line to use when this one breaks

	mu    sync.Mutex // guards what follows
	queue []l7.Handed
	over  bool // nobody takes any more
}

// give begins to hand over everything that can be. A line more is kept for when
// the one in use breaks.
func (p *process) give(m message) error {
	server, ok := p.server.(mover)
	if !ok {
		return errImmobile
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := m.line()
	if err != nil {
		return err
	}
	if p.giver != nil && p.giver.keep(c) {
		return nil
	}
	g := &giver{process: p, server: server, line: c, wake: make(chan struct{}, 1), another: make(chan *conn, 1)}
	p.giver = g
	go g.runGive()
	server.Export(g.put)
	return nil
}

// keep takes a line to use later, in place of one that waits; false: the giver
// has ended.
func (g *giver) keep(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return false
	}
	select {
	case old := <-g.another:
		old.close()
	default:
	}
	g.another <- c
	return true
}

// put is called by the loops.
func (g *giver) put(h l7.Handed) {
	g.mu.Lock()
	over := g.over
	if !over {
		g.queue = append(g.queue, h)
	}
	g.mu.Unlock()
	if over {
		g.back([]l7.Handed{h})
		return
	}
	wake(g.wake)
}

// renewTime is how long connections wait for somebody else to take them: a
// supervisor that lives knows at once that who took them is dead.
const renewTime = time.Second

// renew goes on with another line; false: there is none.
func (g *giver) renew() bool {
	g.line.close()
	select {
	case g.line = <-g.another:
		return true
	case <-time.After(renewTime):
		return false
	}
}

// runGive sends batches until no line is left. It ends with the process, else.
func (g *giver) runGive() {
	defer func() { g.line.close() }()
	for range g.wake {
		for {
			b := g.next()
			if len(b) == 0 {
				break
			}
			err := g.send(b)
			if errors.Is(err, errGone) && g.renew() {
				continue
			}
			if err != nil {
				g.process.log.Warn("connections are not handed over any more; they drain", "err", err)
				g.end()
				return
			}
		}
	}
}

// next takes a message's worth from the queue.
func (g *giver) next() []l7.Handed {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, fds, size := 0, 0, 0
	for _, h := range g.queue {
		fds += len(h.FDs)
		size += len(h.Unread) + len(h.Unsent) + len(h.UnsentFar)
		if fds > maxFDs || n > 0 && size > maxBatchBytes {
			break
		}
		n++
	}
	b := g.queue[:n:n]
	if g.queue = g.queue[n:]; len(g.queue) == 0 {
		g.queue = nil
	}
	return b
}

// send hands one batch over. An error means that it is not handed over any more;
// what was not taken is back.
func (g *giver) send(all []l7.Handed) error {
	var b batch
	var fds []int
	for _, h := range all {
		b.Connections = append(b.Connections, moved{h, len(h.FDs)})
		fds = append(fds, h.FDs...)
	}
	err := g.line.send(message{ID: 1, Op: "connections"}, b, fds)
	var v verdict
	if err == nil {
		v, err = g.answer()
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		// It is dead, and has not said that it takes them: it has not touched them.
		g.mu.Lock()
		g.queue = append(all, g.queue...)
		g.mu.Unlock()
		return fmt.Errorf("%w: %w", errGone, err)
	default:
		// It may have them or not; two processes at one connection are worse
		// than none.
		g.gone(all)
		return err
	}
	refused := map[int]bool{}
	for _, i := range v.Refused {
		refused[i] = true
	}
	var taken, left []l7.Handed
	for i, h := range all {
		if refused[i] {
			left = append(left, h)
		} else {
			taken = append(taken, h)
		}
	}
	g.gone(taken)
	if len(left) > 0 {
		g.process.log.Info("connections are refused by the new worker and drain here", "refused", len(left), "of", len(all), "why", v.Why)
		g.back(left)
	}
	return nil
}

func (g *giver) answer() (verdict, error) {
	var v verdict
	if err := g.line.unix.SetReadDeadline(time.Now().Add(moveTimeout)); err != nil {
		return v, err
	}
	m, err := g.line.receive()
	if err != nil {
		return v, err
	}
	closeAll(m.fds)
	return v, m.into(&v)
}

// gone lets go of connections that are somebody else's.
func (g *giver) gone(all []l7.Handed) {
	for _, h := range all {
		closeAll(h.FDs)
	}
	g.server.Gave(len(all))
}

// back goes on with connections that nobody took. They drain here.
func (g *giver) back(all []l7.Handed) {
	for _, h := range all {
		g.server.TakeBack(h)
	}
}

// end takes back what waits; the loops offer nothing any more.
func (g *giver) end() {
	g.mu.Lock()
	waiting := g.queue
	g.queue, g.over = nil, true
	select {
	case c := <-g.another:
		c.close()
	default:
	}
	g.mu.Unlock()
	g.server.Export(nil)
	g.back(waiting)
}
