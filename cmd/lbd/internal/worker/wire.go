package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
)

// protocol is the version of what is said over a control socket. hello and its
// answer keep their shape for ever, so that any two versions can say no.
const protocol = 1

// Protocol is the version of the control protocol that this program speaks.
const Protocol = protocol

// Bounds of one message. The kernel takes at most 253 descriptors at once.
const (
	maxMessage   = 64 << 20
	maxFDs       = 253
	writeTimeout = 10 * time.Second
)

// A message is 4 bytes of length, then JSON. Its descriptors travel with the
// first byte. A request has an op; its reply has the same id and none.
type message struct {
	ID    uint64          `json:"id"`
	Op    string          `json:"op,omitempty"`
	FDs   int             `json:"fds,omitempty"`
	Fault *fault          `json:"fault,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`

	fds []int // received with it; whoever takes the message owns them
}

// fault is an error as it travels: what is wrong with a document keeps its
// places.
type fault struct {
	Text   string    `json:"text"`
	Errors lb.Errors `json:"errors,omitempty"`
}

func newFault(err error) *fault {
	var es lb.Errors
	errors.As(err, &es)
	return &fault{Text: err.Error(), Errors: es}
}

func (f *fault) err() error {
	if len(f.Errors) > 0 {
		return f.Errors
	}
	return refusal(f.Text)
}

// refusal is what a worker answered, as against what became of asking it.
type refusal string

func (r refusal) Error() string { return string(r) }

// conn is one control connection, seen from either side. The parent calls, the
// child answers; "bye" is the only thing a child says unasked.
type conn struct {
	unix *net.UnixConn

	writing sync.Mutex // one message at a time on the socket

	mu      sync.Mutex // guards the three below
	pending map[uint64]chan message
	last    uint64
	err     error

	ended chan struct{} // closed when nothing more is read
}

func newConn(u *net.UnixConn) *conn {
	return &conn{unix: u, pending: map[uint64]chan message{}, ended: make(chan struct{})}
}

// call sends a request and waits for its reply. It returns the descriptors that
// came with the reply; they are the caller's.
func (c *conn) call(ctx context.Context, op string, body any, fds []int, reply any) ([]int, error) {
	id, answer, err := c.expect()
	if err != nil {
		return nil, err
	}
	defer c.forget(id)
	if err := c.send(message{ID: id, Op: op}, body, fds); err != nil {
		return nil, fmt.Errorf("send %s: %w", op, err)
	}
	select {
	case m, ok := <-answer:
		if !ok {
			return nil, fmt.Errorf("%s: %w", op, c.failure())
		}
		return m.fds, m.into(reply)
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: no answer: %w", op, ctx.Err())
	}
}

func (m message) into(reply any) error {
	if m.Fault != nil {
		return m.Fault.err()
	}
	if reply == nil || len(m.Body) == 0 {
		return nil
	}
	return json.Unmarshal(m.Body, reply)
}

func (c *conn) expect() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.last++
	answer := make(chan message, 1)
	c.pending[c.last] = answer
	return c.last, answer, nil
}

// forget drops a call; an answer that came too late gives its descriptors back.
func (c *conn) forget(id uint64) {
	c.mu.Lock()
	answer := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if answer == nil {
		return
	}
	select {
	case m, ok := <-answer:
		if ok {
			closeAll(m.fds)
		}
	default:
	}
}

// over reports whether nothing can be said any more.
func (c *conn) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (c *conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// runReplies hands replies to their callers until the connection ends. What
// the other side says unasked goes to unasked.
func (c *conn) runReplies(unasked func(message)) {
	defer close(c.ended)
	for {
		m, err := c.receive()
		if err != nil {
			c.fail(err)
			return
		}
		if m.Op != "" {
			unasked(m)
			closeAll(m.fds)
			continue
		}
		c.deliver(m)
	}
}

func (c *conn) deliver(m message) {
	c.mu.Lock()
	answer := c.pending[m.ID]
	delete(c.pending, m.ID)
	c.mu.Unlock()
	if answer == nil {
		closeAll(m.fds)
		return
	}
	answer <- m // has room for the one reply
}

func (c *conn) fail(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = errors.New("the connection to the worker ended")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	for id, answer := range c.pending {
		delete(c.pending, id)
		close(answer)
	}
	c.unix.Close()
}

func (c *conn) close() { c.fail(net.ErrClosed) }

// send writes one message with its descriptors, which stay the caller's.
func (c *conn) send(m message, body any, fds []int) error {
	frame, err := encode(m, body, len(fds))
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.unix.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.unix.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = c.unix.Write(frame[n:])
	}
	if err != nil {
		c.fail(err) // a message that is cut leaves nothing to go on with
	}
	runtime.KeepAlive(body) // a document's memory is open as long as it is used
	return err
}

func encode(m message, body any, fds int) ([]byte, error) {
	if fds > maxFDs {
		return nil, fmt.Errorf("%d descriptors in one message; %d fit", fds, maxFDs)
	}
	m.FDs = fds
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		m.Body = raw
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(text) > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes; at most %d fit", len(text), maxMessage)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...), nil
}

// receive reads one message. It never reads beyond it, so descriptors cannot be
// taken for those of another one.
func (c *conn) receive() (message, error) {
	r := &fdReader{unix: c.unix}
	m, err := r.message()
	if err == nil && m.FDs != len(r.fds) {
		err = fmt.Errorf("%d descriptors came with a message that has %d", len(r.fds), m.FDs)
	}
	if err != nil {
		closeAll(r.fds)
		return message{}, err
	}
	m.fds = r.fds
	return m, nil
}

// fdReader reads a stream socket and keeps the descriptors that come along.
type fdReader struct {
	unix *net.UnixConn
	fds  []int
}

func (r *fdReader) message() (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > maxMessage {
		return message{}, fmt.Errorf("a message of %d bytes; at most %d are read", size, maxMessage)
	}
	// The buffer grows with what arrives, not with what the length claims.
	var text bytes.Buffer
	if _, err := io.CopyN(&text, r, size); err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(text.Bytes(), &m); err != nil {
		return message{}, fmt.Errorf("read a message: %w", err)
	}
	return m, nil
}

// Read implements io.Reader. The net package sets MSG_CMSG_CLOEXEC, so that no
// child of ours inherits what comes in.
func (r *fdReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(maxFDs*4))
	n, oobn, flags, _, err := r.unix.ReadMsgUnix(p, oob)
	if oobn > 0 {
		if err := r.keep(oob[:oobn]); err != nil {
			return n, err
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return n, errors.New("descriptors were lost on the way: too many open files?")
	}
	if err == nil && n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (r *fdReader) keep(oob []byte) error {
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for i := range controls {
		fds, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			continue // credentials or the like
		}
		r.fds = append(r.fds, fds...)
	}
	if len(r.fds) > maxFDs {
		return errors.New("more descriptors than one message may carry")
	}
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// peer returns the process on the other side of a connection, as the kernel
// knows it. For a connection that we dialled that is whoever called listen
// last, which is why a worker calls it again on the socket it was given.
func peer(u *net.UnixConn) (*unix.Ucred, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, inner
}
