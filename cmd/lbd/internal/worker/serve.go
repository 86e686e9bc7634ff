package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// handle answers one request of the supervisor. Building a configuration may
// take a while and must not keep pings waiting.
func (p *process) handle(c *conn, m message) {
	if m.Op == opPrepare {
		go p.runPrepare(c, m)
		return
	}
	p.obeying.Lock()
	if !p.obeys(c) {
		p.obeying.Unlock()
		closeAll(m.fds)
		return
	}
	body, fds, err := p.do(m)
	p.obeying.Unlock()
	p.answer(c, m, body, fds, err)
}

// runPrepare builds a configuration and answers.
func (p *process) runPrepare(c *conn, m message) {
	fds := m.fds
	err := with(m, func(d document) error {
		fds = nil // unpack owns them
		return p.prepare(c, d, m.fds)
	})
	closeAll(fds)
	p.answer(c, m, nil, nil, err)
}

// obeys reports whether c is the supervisor that counts. What an earlier one
// said and nobody has read yet must not undo what its successor says.
func (p *process) obeys(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.supervisor == c
}

func (p *process) answer(c *conn, m message, body any, fds []int, err error) {
	reply := message{ID: m.ID}
	if err != nil {
		reply.Fault = newFault(err)
	}
	_ = c.send(reply, body, fds) // a connection that fails is over; its reader sees it
}

// do carries out a request. It owns the descriptors that came with it.
func (p *process) do(m message) (body any, fds []int, err error) {
	if m.Op != opListen {
		defer closeAll(m.fds)
	}
	switch m.Op {
	case opPing:
		return p.pong(), nil, nil
	case opStats:
		return p.server.Stats(), nil, nil
	case opRefused:
		return p.server.Refused(), nil, nil
	case opCommit:
		return nil, nil, with(m, p.commit)
	case opAbort:
		p.abort()
		return nil, nil, nil
	case opDocument:
		d := p.document()
		return d, d.fds(), nil
	case opListen:
		return nil, nil, p.listen(m)
	case opUnlisten:
		return nil, nil, with(m, p.unlisten)
	case opHeld:
		return p.heldFrom(m)
	case opAccept:
		return nil, nil, with(m, p.accept)
	case opState:
		return nil, nil, with(m, func(s lb.State) error { p.server.SetState(s); return nil })
	case opTickets:
		return nil, nil, with(m, p.setTickets)
	case opPulse:
		return nil, nil, p.pulse(m.fds)
	case opLogs:
		return nil, nil, with(m, func(r logsRequest) error { return p.logs(r, m.fds) })
	case opTake:
		return nil, nil, p.take(m)
	case opGive:
		return nil, nil, p.give(m)
	case opDrain:
		return nil, nil, with(m, p.drainOn)
	}
	return nil, nil, fmt.Errorf("this worker (lbd %s) does not know %q", p.child.Version, m.Op)
}

// with reads a request's body for the function that carries it out.
func with[T any](m message, do func(T) error) error {
	var body T
	if err := json.Unmarshal(m.Body, &body); err != nil {
		return fmt.Errorf("read %s: %w", m.Op, err)
	}
	return do(body)
}

func (p *process) pong() pong {
	var out pong
	for _, beat := range p.server.Beats() {
		out.Beats = append(out.Beats, time.Since(beat).Milliseconds())
	}
	return out
}

// prepare builds a configuration and keeps it for a commit.
func (p *process) prepare(by *conn, d document, fds []int) error {
	files, err := d.unpack(fds)
	if err != nil {
		return err
	}
	p.preparing.Lock()
	defer p.preparing.Unlock()
	if !p.obeys(by) {
		return errReplaced
	}
	p.abort()
	c, err := p.child.Parse(d.File, d.Text)
	if err != nil {
		return err
	}
	commit, err := p.server.Prepare(d.Generation, c, files)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.supervisor != by {
		return errReplaced
	}
	p.built = &built{d, c, commit}
	return nil
}

var errReplaced = errors.New("another supervisor has taken over")

func (p *process) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.built = nil
}

func (p *process) commit(r commitRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.built != nil && p.built.document.Generation == r.Generation:
	case p.serving != nil && p.serving.Generation == r.Generation:
		return nil // said twice
	default:
		return fmt.Errorf("generation %d was not built here", r.Generation)
	}
	b := p.built
	p.built = nil
	b.commit()
	p.serving = &b.document
	_ = p.level.UnmarshalText([]byte(b.config.Log.Level)) // validated; without one it stays
	p.sockets.listeners = map[netip.AddrPort]string{}
	for _, l := range b.config.Listeners {
		p.sockets.listeners[l.Bind] = l.Name
	}
	if b.config.Drain.Timeout > 0 {
		p.drain = b.config.Drain.Timeout
	}
	return p.settle()
}

func (p *process) document() document {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.serving == nil {
		return document{}
	}
	return *p.serving
}

func (p *process) listen(m message) error {
	var names []socketName
	err := json.Unmarshal(m.Body, &names)
	if err == nil && len(names) != len(m.fds) {
		err = fmt.Errorf("%d names for %d sockets", len(names), len(m.fds))
	}
	if err != nil {
		closeAll(m.fds)
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, name := range names {
		if p.ending {
			unix.Close(m.fds[i])
			continue
		}
		if err := nonblocking(m.fds[i]); err != nil {
			closeAll(m.fds[i:])
			return fmt.Errorf("check the socket of slot %d of %s: %w", name.Slot, name.Bind, err)
		}
		p.sockets.hold(name, m.fds[i])
	}
	return p.settle()
}

func (p *process) unlisten(names []socketName) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		p.sockets.drop(p.server, name)
	}
	return nil
}

func (p *process) heldFrom(m message) (any, []int, error) {
	var r heldRequest
	if err := json.Unmarshal(m.Body, &r); err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	names, fds := p.sockets.list()
	from := min(max(r.From, 0), len(names))
	to := min(from+maxFDs, len(names))
	return names[from:to], fds[from:to], nil
}

func (p *process) accept(grants []grant) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.granted = grants
	p.active, p.alone = true, false
	return p.settle()
}

// settle makes the loops accept on what they should. Call it with mu held.
func (p *process) settle() error {
	want := p.sockets.wanted(p.duties())
	return p.sockets.become(p.server, want)
}

// duties is the thread for each slot that we accept on: what we were told, or
// everything when there is nobody to tell us.
func (p *process) duties() map[int]int {
	out := map[int]int{}
	if p.ending || !p.active {
		return out
	}
	for _, g := range p.granted {
		out[g.Slot] = min(max(g.Thread, 0), p.id.threads-1)
	}
	if !p.alone {
		return out
	}
	for name := range p.sockets.held {
		if _, ok := out[name.Slot]; !ok {
			out[name.Slot] = name.Slot % p.id.threads
		}
	}
	return out
}

// logs moves stderr and the access log to other files, in place.
func (p *process) logs(r logsRequest, fds []int) error {
	want := 1
	if r.Access {
		want = 2
	}
	if len(fds) != want {
		return fmt.Errorf("%d descriptors of logs; expected %d", len(fds), want)
	}
	if err := unix.Dup3(fds[0], int(os.Stderr.Fd()), 0); err != nil {
		return fmt.Errorf("move stderr: %w", err)
	}
	if !r.Access || !p.id.access {
		return nil
	}
	if err := unix.Dup3(fds[1], fdAccess, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("move the access log: %w", err)
	}
	return nil
}

func (p *process) drainOn(r drainRequest) error {
	p.beginDrain(time.Duration(r.Milliseconds) * time.Millisecond)
	return nil
}
