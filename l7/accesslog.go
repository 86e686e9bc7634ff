package l7

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/cirque-lb/lb"
)

// outcome is all there is to say about a request once it is over; the access
// log writes it down, the statistics count it. Its strings live as long as the
// exchange.
type outcome struct {
	start     time.Time
	client    netip.AddrPort
	listener  string
	method    string // "" when not even that could be parsed
	host      string
	target    string
	version   Version
	status    int // 0: the client got no response
	made      bool
	reason    lb.Reason
	source    Source
	route     string
	pool      string
	backend   string
	attempts  int
	bytesIn   int64 // of the request's body
	bytesOut  int64 // of the response's body
	total     time.Duration
	connect   time.Duration // until the last attempt had its connection; 0 without
	firstByte time.Duration // from the head sent to the backend to its answer; 0 without
	requestID string
	referer   string // of the combined format only, as agent
	agent     string
	err       error
}

// accessLog writes one line per request, in JSON unless log.format says combined.
//
// A loop only appends to its thread's buffer; the writer goroutine swaps the
// buffers out and writes them. When the writer is so far behind that a buffer is
// full, lines are dropped and counted: a slow disk must not slow a request.
type accessLog struct {
	buffers []logBuffer   // one per thread
	wake    chan struct{} // there are lines
	hurry   chan struct{} // a buffer is half full
	quit    chan struct{}
	over    chan struct{}
	log     *slog.Logger
	out     io.Writer
	failing bool // the last write failed; the writer's

	combined atomic.Bool
}

// logBuffer gathers one thread's lines.
type logBuffer struct {
	mu      sync.Mutex // guards lines; never held while writing to a file
	lines   []byte
	spare   []byte // the writer's: what it wrote last, empty
	dropped atomic.Uint64
	second  int64 // of the time that stamp says; the thread's
	stamp   [20]byte
	_       [64]byte
}

const (
	maxLogBuffer  = 512 << 10             // per thread, before lines are dropped
	logGather     = 20 * time.Millisecond // lines of so long are written at once
	maxLogText    = 2 << 10               // of a path, of a host: the rest is cut off
	maxLogMessage = 512
)

// newAccessLog starts the writer; close ends it.
func newAccessLog(out io.Writer, threads int, log *slog.Logger) *accessLog {
	l := &accessLog{
		buffers: make([]logBuffer, threads),
		wake:    make(chan struct{}, 1),
		hurry:   make(chan struct{}, 1),
		quit:    make(chan struct{}),
		over:    make(chan struct{}),
		log:     log,
		out:     out,
	}
	go l.runWriter()
	return l
}

// record appends o's line to the thread's buffer.
func (l *accessLog) record(thread int, o *outcome) {
	b := &l.buffers[thread]
	b.mu.Lock()
	if len(b.lines) >= maxLogBuffer {
		b.mu.Unlock()
		b.dropped.Add(1)
		return
	}
	before := len(b.lines)
	if l.combined.Load() {
		b.lines = b.appendCombined(b.lines, o)
	} else {
		b.lines = b.appendLine(b.lines, o)
	}
	after := len(b.lines)
	b.mu.Unlock()
	if before == 0 {
		signal(l.wake)
	}
	if before < maxLogBuffer/2 && after >= maxLogBuffer/2 {
		signal(l.hurry)
	}
}

// signal never waits: a signal that is still there says it all.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dropped is how many lines were lost.
func (l *accessLog) dropped() (n uint64) {
	for i := range l.buffers {
		n += l.buffers[i].dropped.Load()
	}
	return n
}

// close writes what is left and ends the writer.
func (l *accessLog) close() {
	close(l.quit)
	<-l.over
}

func (l *accessLog) runWriter() {
	defer close(l.over)
	gather := time.NewTimer(time.Hour)
	defer gather.Stop()
	for {
		select {
		case <-l.wake:
		case <-l.quit:
			l.flush()
			return
		}
		gather.Reset(logGather)
		select {
		case <-gather.C:
		case <-l.hurry:
		case <-l.quit:
		}
		l.flush()
	}
}

// flush writes what all threads have gathered.
func (l *accessLog) flush() {
	for i := range l.buffers {
		b := &l.buffers[i]
		b.mu.Lock()
		lines := b.lines
		b.lines = b.spare
		b.mu.Unlock()
		if len(lines) > 0 {
			l.write(lines)
		}
		b.spare = lines[:0]
	}
}

func (l *accessLog) write(lines []byte) {
	_, err := l.out.Write(lines)
	if err != nil && !l.failing { // once, not for every batch
		l.log.Error("write access log", "error", err)
	}
	l.failing = err != nil
}

// appendLine appends the line. Fields without a value are left out, but for
// those that every reader expects.
func (b *logBuffer) appendLine(dst []byte, o *outcome) []byte {
	dst = append(dst, `{"time":"`...)
	dst = b.appendTime(dst, o.start)
	dst = append(dst, `","client":"`...)
	if o.client.IsValid() {
		dst = o.client.AppendTo(dst)
	}
	dst = append(dst, '"')
	dst = appendText(dst, `,"listener":`, o.listener)
	dst = appendText(dst, `,"method":`, o.method)
	dst = appendText(dst, `,"host":`, o.host)
	dst = appendText(dst, `,"path":`, o.target)
	dst = append(dst, `,"protocol":"`...)
	dst = append(dst, o.version.String()...)
	dst = append(dst, `","status":`...)
	dst = strconv.AppendInt(dst, int64(o.status), 10)
	if o.reason != "" {
		dst = appendText(dst, `,"reason":`, string(o.reason))
		dst = appendText(dst, `,"source":`, o.source.String())
	}
	dst = appendText(dst, `,"route":`, o.route)
	dst = appendText(dst, `,"pool":`, o.pool)
	dst = appendText(dst, `,"backend":`, o.backend)
	dst = append(dst, `,"attempts":`...)
	dst = strconv.AppendInt(dst, int64(o.attempts), 10)
	dst = append(dst, `,"bytes_in":`...)
	dst = strconv.AppendInt(dst, o.bytesIn, 10)
	dst = append(dst, `,"bytes_out":`...)
	dst = strconv.AppendInt(dst, o.bytesOut, 10)
	dst = appendSeconds(dst, `,"duration":`, o.total)
	if o.connect > 0 {
		dst = appendSeconds(dst, `,"upstream_connect":`, o.connect)
	}
	if o.firstByte > 0 {
		dst = appendSeconds(dst, `,"upstream_first_byte":`, o.firstByte)
	}
	dst = appendText(dst, `,"request_id":`, o.requestID)
	if o.err != nil {
		dst = appendText(dst, `,"error":`, cut(o.err.Error(), maxLogMessage))
	}
	return append(dst, "}\n"...)
}

// appendTime appends a time in RFC 3339 with milliseconds, in UTC. Most lines
// share their second with the one before.
func (b *logBuffer) appendTime(dst []byte, t time.Time) []byte {
	if s := t.Unix(); s != b.second || b.stamp[0] == 0 {
		b.second = s
		t.UTC().AppendFormat(b.stamp[:0], "2006-01-02T15:04:05.")
	}
	dst = append(dst, b.stamp[:]...)
	ms := t.Nanosecond() / 1e6
	return append(dst, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// appendSeconds appends a duration in seconds with six decimals.
func appendSeconds(dst []byte, key string, d time.Duration) []byte {
	dst = append(dst, key...)
	us := max(0, d.Microseconds())
	dst = strconv.AppendInt(dst, us/1e6, 10)
	dst = append(dst, '.')
	for unit := int64(1e5); unit > 0; unit /= 10 {
		dst = append(dst, byte('0'+us/unit%10))
	}
	return dst
}

// appendText appends key and s as a JSON string, or nothing without s.
func appendText(dst []byte, key, s string) []byte {
	if s == "" {
		return dst
	}
	dst = append(append(dst, key...), '"')
	dst = appendJSON(dst, cut(s, maxLogText))
	return append(dst, '"')
}

func cut(s string, n int) string { return s[:min(n, len(s))] }

// appendJSON appends s so that it cannot leave its quotes, whatever a client
// wrote: what is not printable ASCII or valid UTF-8 is escaped.
func appendJSON(dst []byte, s string) []byte {
	if allPlain(s) {
		return append(dst, s...)
	}
	const hex = "0123456789abcdef"
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if c >= utf8.RuneSelf && size > 1 && r != '\u2028' && r != '\u2029' {
			i += size
			continue
		}
		dst = append(dst, s[from:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case size == 1:
			dst = append(dst, `\ufffd`...)
		default: // line separators, which JavaScript takes for newlines
			dst = append(dst, `\u202`...)
			dst = append(dst, hex[r&15])
		}
		i += size
		from = i
	}
	return append(dst, s[from:]...)
}

// allPlain reports whether all bytes are plain, eight at a time; it may say no
// falsely, for a byte next to a special one.
func allPlain(s string) bool {
	const each = 0x0101010101010101
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		quote, slash := x^'"'*each, x^'\\'*each
		special := x | (x - 0x20*each) | (x + each) | (quote - each) | (slash - each)
		if special&(0x80*each) != 0 {
			return false
		}
	}
	for _, c := range b {
		if !plain[c] {
			return false
		}
	}
	return true
}

// plain bytes stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()
