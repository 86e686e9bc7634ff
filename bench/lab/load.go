package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The kinds of connections.
const (
	short  = "short"  // one request, then closed
	keep   = "keep"   // a request every think time, for as long as it is kept
	stream = "stream" // one response that never ends
	held   = "held"   // one request, then idle until asked again
	tunnel = "tunnel" // bytes both ways, through the TCP proxy
	slow   = "slow"   // one response that takes its time, then another
)

const (
	patience    = 8 * time.Second // for a connection, an answer, the next line of a stream
	think       = 250 * time.Millisecond
	shortAtOnce = 1024
	maxFailures = 20_000 // told one by one; all are counted
)

// load opens connections through the VIP and keeps count of what becomes of
// them. It retries nothing: what a client would notice is a failure.
type load struct {
	target netip.AddrPort

	connect, answer atomic.Int64 // ns of patience with each
	life            atomic.Int64 // of the tunnels: what began in an earlier one ends

	mu    sync.Mutex // guards what follows
	tally report
	live  map[*flow]bool
	held  []*flow
}

// flow is one connection.
type flow struct {
	net.Conn
	in     *bufio.Reader
	kind   string
	opened time.Time
	node   string // that answered; "" before

	nonce   string    // the last answer has to tell it, unless this is empty
	answers int       // so far
	asked   time.Time // the last request
}

// report counts since the last one was taken.
type report struct {
	Kinds    map[string]tally `json:"kinds"`
	Nodes    map[string]int   `json:"nodes"` // connections by the node that first answered
	Failures []failure        `json:"failures"`
}

type tally struct {
	Opened   int `json:"opened"`
	Requests int `json:"requests"`
	Ended    int `json:"ended"`  // by us
	Moved    int `json:"moved"`  // the proxy asked to close, between two requests
	Failed   int `json:"failed"` // refused, timed out, cut, reset
	Reset    int `json:"reset"`  // those of them that were reset or refused
	Live     int `json:"live"`
	Slowest  ms  `json:"slowest"` // from dialling to the head of the first response
}

// ms is a duration in milliseconds.
type ms int

func (t tally) plus(o tally) tally {
	return tally{t.Opened + o.Opened, t.Requests + o.Requests, t.Ended + o.Ended, t.Moved + o.Moved, t.Failed + o.Failed, t.Reset + o.Reset, t.Live + o.Live, max(t.Slowest, o.Slowest)}
}

// all is the sum over the kinds.
func (r report) all() (sum tally) {
	for _, t := range r.Kinds {
		sum = sum.plus(t)
	}
	return sum
}

// failure is one connection that a client would complain of.
type failure struct {
	Kind   string    `json:"kind"`
	Stage  string    `json:"stage"` // connect | request | response | idle | stream | wrong
	Port   int       `json:"port"`  // ours
	Node   string    `json:"node,omitempty"`
	Opened time.Time `json:"opened"`
	At     time.Time `json:"at"`
	Reset  bool      `json:"reset"`
	Error  string    `json:"error"`

	Answers int       `json:"answers"` // before
	Asked   time.Time `json:"asked"`   // the last request
}

func (f failure) String() string {
	return fmt.Sprintf("%s %s connection from port %d to %q, %v old, %d answers, last asked %v ago, at %s: %s", f.At.Format("15:04:05.000"), f.Kind, f.Port, f.Node,
		f.At.Sub(f.Opened).Round(time.Millisecond), f.Answers, f.At.Sub(f.Asked).Round(100*time.Microsecond), f.Stage, f.Error)
}

// liveFlow is a connection as /flows tells of it.
type liveFlow struct {
	Kind string `json:"kind"`
	Port int    `json:"port"`
	Node string `json:"node"`
}

func newLoad(target netip.AddrPort) *load {
	l := &load{target: target, live: map[*flow]bool{}}
	l.connect.Store(int64(patience))
	l.answer.Store(int64(patience))
	l.reset()
	return l
}

func (l *load) reset() {
	l.tally = report{Kinds: map[string]tally{}, Nodes: map[string]int{}, Failures: []failure{}}
}

// take returns the counts since the last take.
func (l *load) take() report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.tally
	for f := range l.live {
		t := r.Kinds[f.kind]
		t.Live++
		r.Kinds[f.kind] = t
	}
	l.reset()
	return r
}

func (l *load) count(kind string, t tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Kinds[kind] = l.tally.Kinds[kind].plus(t)
}

// dial connects, from a port of ours or any (0); nil: it failed.
func (l *load) dial(ctx context.Context, kind string, port int, to netip.AddrPort) *flow {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(l.connect.Load()))
	defer cancel()
	f := &flow{kind: kind, opened: time.Now()}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		l.fail(f, "connect", err)
		return nil
	}
	l.count(kind, tally{Opened: 1})
	f.Conn, f.in = conn, bufio.NewReader(conn)
	l.mu.Lock()
	l.live[f] = true
	l.mu.Unlock()
	return f
}

// open connects and sends the first request.
func (l *load) open(ctx context.Context, kind string, port int, path string, last bool) (*flow, *http.Response) {
	f := l.dial(ctx, kind, port, l.target)
	if f == nil {
		return nil, nil
	}
	res := l.ask(f, path, last)
	if res == nil {
		return nil, nil
	}
	return f, res
}

// ask sends a request and reads the head of its response; nil: it failed and
// the flow is closed.
func (l *load) ask(f *flow, path string, last bool) *http.Response {
	f.asked = time.Now()
	f.SetDeadline(f.asked.Add(time.Duration(l.answer.Load())))
	head := "GET " + path + " HTTP/1.1\r\nHost: lab.example\r\n"
	if last {
		head += "Connection: close\r\n"
	}
	if _, err := io.WriteString(f, head+"\r\n"); err != nil {
		l.fail(f, "request", err)
		return nil
	}
	res, err := http.ReadResponse(f.in, nil)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	if err != nil {
		l.fail(f, "response", err)
		return nil
	}
	f.answers++
	l.count(f.kind, tally{Requests: 1})
	l.landed(f, cmp.Or(res.Header.Get("X-Node"), res.Header.Get("X-Origin")))
	return res
}

func (l *load) landed(f *flow, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.node == "" {
		f.node = node
		l.tally.Nodes[node]++
		l.tally.Kinds[f.kind] = l.tally.Kinds[f.kind].plus(tally{Slowest: ms(time.Since(f.opened).Milliseconds())})
	}
}

// finish reads the rest of a response, which tells what was asked; false: it was
// cut or is another's, and the flow is closed.
func (l *load) finish(f *flow, res *http.Response) bool {
	body, err := io.ReadAll(res.Body)
	if err != nil {
		l.fail(f, "response", err)
		return false
	}
	if f.nonce != "" && !bytes.Contains(body, []byte(f.nonce)) {
		l.fail(f, "wrong", fmt.Errorf("the answer to %s is %.100q", f.nonce, body))
		return false
	}
	return true
}

// whoami is the next question, unlike any other's.
func (f *flow) whoami() string {
	f.nonce = fmt.Sprintf("/whoami?n=%x", rand.Uint64())
	return f.nonce
}

func (l *load) fail(f *flow, stage string, err error) {
	failed := failure{
		Kind: f.kind, Stage: stage, Node: f.node, Opened: f.opened, At: time.Now(), Error: err.Error(),
		Answers: f.answers, Asked: f.asked,
		Reset: errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED),
	}
	if f.Conn != nil {
		failed.Port = f.LocalAddr().(*net.TCPAddr).Port
	}
	t := tally{Failed: 1}
	if failed.Reset {
		t.Reset = 1
	}
	l.end(f, t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.tally.Failures) < maxFailures {
		l.tally.Failures = append(l.tally.Failures, failed)
	}
}

// end closes a flow and counts why.
func (l *load) end(f *flow, t tally) {
	l.count(f.kind, t)
	l.mu.Lock()
	delete(l.live, f)
	l.mu.Unlock()
	if f.Conn != nil {
		f.Close()
	}
}

// runShort opens so many connections a second.
func (l *load) runShort(ctx context.Context, perSecond int) {
	var flows sync.WaitGroup
	defer flows.Wait()
	room := make(chan struct{}, shortAtOnce)
	beat := time.NewTicker(time.Second / time.Duration(perSecond))
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
		}
		room <- struct{}{} // slower than asked when so many do not get their answers
		flows.Go(func() {
			l.one(context.WithoutCancel(ctx))
			<-room
		})
	}
}

func (l *load) one(ctx context.Context) {
	if f, res := l.open(ctx, short, 0, "/whoami", true); f != nil && l.finish(f, res) {
		l.end(f, tally{Ended: 1})
	}
}

// runKeep keeps one connection busy, and opens another when the proxy asked to
// close it.
func (l *load) runKeep(ctx context.Context) {
	for ctx.Err() == nil {
		f, res := l.open(ctx, keep, 0, "/whoami", false)
		for f != nil && l.finish(f, res) {
			if ctx.Err() != nil {
				l.end(f, tally{Ended: 1})
				return
			}
			if res.Close {
				l.end(f, tally{Moved: 1})
				break
			}
			if !l.idle(f) {
				break
			}
			if res = l.ask(f, f.whoami(), false); res == nil {
				break
			}
		}
		if f == nil {
			pause(ctx, think) // a refusal must not become a flood
		}
	}
}

// idle waits for the think time; false: the proxy closed meanwhile, and so do we.
func (l *load) idle(f *flow) bool {
	f.SetReadDeadline(time.Now().Add(think/2 + rand.N(think)))
	switch _, err := f.in.Peek(1); {
	case isTimeout(err):
		return true
	case errors.Is(err, io.EOF):
		l.end(f, tally{Moved: 1})
	default:
		l.fail(f, "idle", cmp.Or(err, errors.New("an answer to nothing")))
	}
	return false
}

// runStream reads one endless response, and another when it ends.
func (l *load) runStream(ctx context.Context) {
	for ctx.Err() == nil {
		f, res := l.open(ctx, stream, 0, "/stream", false)
		if f != nil {
			l.follow(ctx, f, res)
		} else {
			pause(ctx, think)
		}
	}
}

func (l *load) follow(ctx context.Context, f *flow, res *http.Response) {
	lines := bufio.NewReader(res.Body)
	for ctx.Err() == nil {
		f.SetReadDeadline(time.Now().Add(time.Duration(l.answer.Load())))
		if _, err := lines.ReadSlice('\n'); err != nil {
			l.fail(f, "stream", err) // it has no end: a clean one is cut, too
			return
		}
	}
	l.end(f, tally{Ended: 1})
}

// hold opens connections from ports of ours (0: any), a bounded number at once,
// and keeps them.
func (l *load) hold(ctx context.Context, ports []int, atOnce int) {
	var openers sync.WaitGroup
	room := make(chan struct{}, max(atOnce, 1))
	for _, port := range ports {
		room <- struct{}{}
		openers.Go(func() {
			if f, res := l.open(ctx, held, port, "/whoami", false); f != nil && l.finish(f, res) {
				l.mu.Lock()
				l.held = append(l.held, f)
				l.mu.Unlock()
			}
			<-room
		})
	}
	openers.Wait()
}

// rest makes one short connection from each port and has the other side close
// it, so that it rests there in TIME_WAIT. It lists where.
func (l *load) rest(ctx context.Context, ports []int) []liveFlow {
	list := []liveFlow{}
	for _, port := range ports {
		f, res := l.open(ctx, short, port, "/whoami", true)
		if f == nil || !l.finish(f, res) {
			continue
		}
		f.in.Peek(1) // until it has closed
		list = append(list, liveFlow{short, port, f.node})
		l.end(f, tally{Ended: 1})
	}
	return list
}

// again sends one more request on every held connection.
func (l *load) again(atOnce int) {
	l.mu.Lock()
	flows := l.held
	l.held = nil
	l.mu.Unlock()
	var askers sync.WaitGroup
	room := make(chan struct{}, max(atOnce, 1))
	for _, f := range flows {
		room <- struct{}{}
		askers.Go(func() {
			defer func() { <-room }()
			res := l.ask(f, "/whoami", false)
			if res == nil || !l.finish(f, res) {
				return
			}
			if res.Close {
				l.end(f, tally{Moved: 1})
				return
			}
			l.mu.Lock()
			l.held = append(l.held, f)
			l.mu.Unlock()
		})
	}
	askers.Wait()
}

// release closes the held connections.
func (l *load) release() {
	l.mu.Lock()
	flows := l.held
	l.held = nil
	l.mu.Unlock()
	for _, f := range flows {
		l.end(f, tally{Ended: 1})
	}
}

// flows lists the open connections.
func (l *load) flows() []liveFlow {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []liveFlow{}
	for f := range l.live {
		list = append(list, liveFlow{f.kind, f.LocalAddr().(*net.TCPAddr).Port, f.node})
	}
	return list
}

func isTimeout(err error) bool {
	var timed net.Error
	return errors.As(err, &timed) && timed.Timeout()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
