package h2

// Conn is one connection. Make it with New; it is not safe for concurrent use.
type Conn struct {
	config  *Config
	handler Handler
}

// New makes a connection and queues what it must say first: the client's
// preface and either side's SETTINGS. A server's input starts with the preface.
func New(config *Config, h Handler) *Conn { return &Conn{config: config, handler: h} }

// Receive takes bytes of the peer, in pieces of any size. An error is a
// *ConnError: every stream was told (Closed), the GOAWAY is queued.
func (c *Conn) Receive(p []byte, now Now) error { return nil }

// Output returns the bytes to write next, moving DATA in from the streams that
// may send. It is valid until the next call of any method.
func (c *Conn) Output() []byte { return nil }

// Advance says that the first n bytes of Output are written.
func (c *Conn) Advance(n int) {}

// Congested says that the peer does not read what it made us queue: stop
// reading from it until this is false again.
func (c *Conn) Congested() bool { return false }

// Open starts a request (client). noBody says that the response has no body
// whatever its content-length says (HEAD). The head follows by BeginHead.
func (c *Conn) Open(owner any, noBody bool) (*Stream, error) { return nil, ErrNoStream }

// Available returns how many streams Open would make now.
func (c *Conn) Available() int { return 0 }

// BeginHead starts a header or trailer section on s; Field adds to it and
// EndHead sends it. Names are lower-cased. Nothing else may be called between.
func (c *Conn) BeginHead(s *Stream) {}

// Field adds a field to the section that BeginHead started.
func (c *Conn) Field(name, value string) {}

// EndHead sends the section.
func (c *Conn) EndHead(end bool) {}

// Write queues body bytes, which are copied. Stop when Buffered is high;
// Drained tells when to go on.
func (c *Conn) Write(s *Stream, p []byte, end bool) {}

// Pause withholds window from the peer: bytes still come, at most a window.
func (c *Conn) Pause(s *Stream) {}

// Resume gives the window back.
func (c *Conn) Resume(s *Stream) {}

// Reset ends a stream at once; s is gone when it returns.
func (c *Conn) Reset(s *Stream, code ErrCode) {}

// Drain starts the two-step GOAWAY: new streams are still taken until the peer
// has seen the first step (it answers our PING), or the owner calls DrainNow.
func (c *Conn) Drain() {}

// DrainNow sends the final GOAWAY; later streams are refused.
func (c *Conn) DrainNow() {}

// Done says that the connection is going away, has no streams and nothing to
// write: close it.
func (c *Conn) Done() bool { return false }

// GoingAway says that the peer sent GOAWAY (or we did).
func (c *Conn) GoingAway() bool { return false }

// Fail tells every stream that the connection broke. Nothing is sent any more.
func (c *Conn) Fail(err error) {}

// Ping queues a PING; Pings counts the answers.
func (c *Conn) Ping() {}

// Streams returns how many streams are open.
func (c *Conn) Streams() int { return 0 }

// Stream is one exchange of messages. It is pooled: drop the pointer when
// Closed or Reset is through.
type Stream struct {
	Owner any // the owner's

	id uint32
}

// ID is the stream's number.
func (s *Stream) ID() uint32 { return s.id }

// Buffered returns how many bytes wait to be sent on s.
func (s *Stream) Buffered() int { return 0 }
