package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2/hpack"
)

// Conn is one connection. Make it with New; it is not safe for concurrent use.
type Conn struct {
	config  *Config
	handler Handler
	now     Now
	err     *ConnError

	streams  map[uint32]*Stream
	finished []*Stream // both halves ended; the handler is to hear
	retired  []*Stream // gone; to be pooled
	nextID   uint32    // client: of the next Open
	lastID   uint32    // server: the highest stream of the peer

	// The way in.
	began   bool // budget.refilled is set
	preface int
	settled bool    // the peer's SETTINGS came
	in      *buffer // a frame that came in part, nil without
	data    data
	block   block
	dec     *hpack.Decoder
	budget  budget

	recvWindow int64
	recvOwed   int64

	// The way out.
	out        *buffer // nil when there is nothing
	written    int     // of out
	enc        encoder
	ready      *Stream // the round of streams that may send
	sendWindow int64
	head       section // being written

	// What the peer said.
	acked       bool // it has our SETTINGS
	peerStreams uint32
	peerWindow  uint32
	peerConnect bool
	peerGone    bool // GOAWAY
	pongs       int

	// The last streams that we reset.
	forgotten   *[forgets]uint32
	forgottenAt int

	draining  bool
	lastTaken *uint32 // streams above are refused since the final GOAWAY
	failed    bool    // the bytes below us are gone
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() *Config {
	number := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	number(&c.Streams, 100)
	number(&c.StreamWindow, 256<<10)
	number(&c.ConnWindow, 1<<20)
	number(&c.HeaderList, 64<<10)
	c.StreamWindow = min(max(c.StreamWindow, defaultWindow), maxWindow)
	c.ConnWindow = min(max(c.ConnWindow, defaultWindow), maxWindow)
	if c.Fields == 0 {
		c.Fields = 100
	}
	if c.Resets == 0 {
		c.Resets = 100
	}
	if c.Control == 0 {
		c.Control = 1000
	}
	return &c
}

// New makes a connection and queues what it must say first: the client's
// preface and either side's SETTINGS. A server's input starts with the preface.
func New(config *Config, h Handler) *Conn {
	c := &Conn{
		config:      config.withDefaults(),
		handler:     h,
		streams:     map[uint32]*Stream{},
		nextID:      1,
		peerStreams: 100, // until its SETTINGS come
		peerWindow:  defaultWindow,
		sendWindow:  defaultWindow,
	}
	c.recvWindow = int64(c.config.ConnWindow)
	c.budget.tokens = c.config.Control
	c.block.reset()
	c.dec = hpack.NewDecoder(4096, c.emit)
	c.dec.SetMaxStringLength(2 * maxBlock)
	c.enc.shared = c.config.Client
	if c.config.Client {
		c.preface = len(Preface) // only clients send one
	}
	c.hello()
	return c
}

// Open starts a request (client); the head follows by BeginHead. noBody says
// that the response has no body whatever its content-length says (HEAD).
func (c *Conn) Open(owner any, noBodyResponse bool) (*Stream, error) {
	if c.Available() == 0 {
		return nil, ErrNoStream
	}
	s := c.add(c.nextID)
	c.nextID += 2
	s.Owner = owner
	if noBodyResponse {
		s.flags |= noBody
	}
	return s, nil
}

// Available returns how many streams Open would make now.
func (c *Conn) Available() int {
	if c.err != nil || c.failed || c.peerGone || c.draining || !c.config.Client || c.nextID > maxWindow {
		return 0
	}
	return max(0, int(min(c.peerStreams, 1<<20))-len(c.streams))
}

// Connect says whether the peer takes extended CONNECT.
func (c *Conn) Connect() bool { return c.peerConnect }

// Settled says whether the peer's SETTINGS came.
func (c *Conn) Settled() bool { return c.settled }

// Partial says that the peer has begun something that it has not ended: its
// preface, a frame or a header section. A body is none of these.
func (c *Conn) Partial() bool { return !c.settled || c.in != nil || c.block.id != 0 }

// Streams returns how many streams are open.
func (c *Conn) Streams() int { return len(c.streams) }

// Used reports whether there was a stream ever.
func (c *Conn) Used() bool { return c.lastID > 0 }

// Each calls f for every open stream; f may reset it.
func (c *Conn) Each(f func(*Stream)) {
	for _, s := range c.streams {
		f(s)
	}
}

// drainPing marks the PING whose answer says that the first GOAWAY was seen.
const drainPing = 0x6369727175652d31

// Drain starts the two-step GOAWAY: new streams are still taken until the peer
// has seen the first step (it answers our PING), or the owner calls DrainNow.
func (c *Conn) Drain() {
	if c.draining || c.err != nil {
		return
	}
	c.draining = true
	if c.config.Client {
		return // a client says nothing by it: servers open no streams
	}
	b := appendGoaway(c.room(), maxWindow, NoError, "")
	b = appendFrame(b, 8, framePing, 0, 0)
	c.out.b = binary.BigEndian.AppendUint64(b, drainPing)
}

// DrainNow sends the final GOAWAY; later streams are refused.
func (c *Conn) DrainNow() {
	c.draining = true
	if c.lastTaken != nil || c.err != nil || c.config.Client {
		return
	}
	last := c.lastID
	c.lastTaken = &last
	c.out.b = appendGoaway(c.room(), last, NoError, "")
}

// Close ends the connection by our own will: streams are told, GOAWAY is queued.
func (c *Conn) Close(code ErrCode) { c.fail(code, "") }

func (c *Conn) pong(v uint64) {
	c.pongs++
	if v == drainPing && c.draining {
		c.DrainNow()
	}
}

// Ping asks for an answer, which Pongs counts.
func (c *Conn) Ping() {
	if c.err == nil {
		c.out.b = binary.BigEndian.AppendUint64(appendFrame(c.room(), 8, framePing, 0, 0), 0)
	}
}

// Pongs returns how many PINGs the peer has answered.
func (c *Conn) Pongs() int { return c.pongs }

// GoingAway says that either side takes no more streams soon.
func (c *Conn) GoingAway() bool { return c.peerGone || c.draining || c.err != nil || c.failed }

// Done says that the connection is over: close it. It is going away, has no
// streams and nothing to write.
func (c *Conn) Done() bool {
	if c.failed {
		return true
	}
	if c.pending() > 0 || len(c.streams) > 0 {
		return c.err != nil && c.pending() == 0
	}
	if c.config.Client {
		return c.GoingAway()
	}
	return c.err != nil || c.lastTaken != nil || c.peerGone
}

// Fail tells every stream that the connection broke below us; nothing is sent
// any more.
func (c *Conn) Fail(err error) {
	c.failed = true
	c.dropAll(err)
	c.reap()
	c.releaseOut()
}

// fail ends the connection for a fault of the peer.
func (c *Conn) fail(code ErrCode, why string) {
	if c.err != nil {
		return
	}
	last := c.lastID
	if c.config.Client {
		last = 0
	}
	c.out.b = appendGoaway(c.room(), last, code, why)
	c.err = &ConnError{Code: code, Reason: why}
	c.dropAll(c.err)
}

func (c *Conn) dropAll(err error) {
	for _, s := range c.streams {
		c.drop(s, err)
	}
}

// room returns the output to append to.
func (c *Conn) room() []byte {
	if c.out == nil {
		c.out = takeBuffer()
	}
	return c.out.b
}

func (c *Conn) releaseOut() {
	if c.out != nil {
		c.out.release()
		c.out, c.written = nil, 0
	}
}
