package l7

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/cirque-lb/lb"
)

var noLog = slog.New(slog.DiscardHandler)

func typicalOutcome() *outcome {
	return &outcome{
		start:    time.Date(2026, 3, 1, 12, 0, 0, 7_000_000, time.UTC),
		client:   netip.MustParseAddrPort("192.0.2.1:5000"),
		listener: "web", method: "GET", host: "shop.example", target: "/a?b=c", version: HTTP11,
		status: 200, route: "route:12", pool: "shop", backend: "10.0.0.1:80", attempts: 1,
		bytesIn: 3, bytesOut: 1024, total: 1234567 * time.Nanosecond, firstByte: time.Millisecond, requestID: "r-1",
	}
}

func TestAccessLogLine(t *testing.T) {
	refused := &outcome{start: time.Unix(0, 0), client: netip.MustParseAddrPort("[2001:db8::1]:1"), listener: "web",
		version: HTTP11, status: 400, reason: lb.BadRequest, source: FromClient, made: true, err: errors.New("no \"Host\" field")}
	for _, c := range []struct {
		name string
		in   *outcome
		want string
	}{
		{"a usual one", typicalOutcome(), `{"time":"2026-03-01T12:00:00.007Z","client":"192.0.2.1:5000","listener":"web","method":"GET",` +
			`"host":"shop.example","path":"/a?b=c","protocol":"HTTP/1.1","status":200,"route":"route:12","pool":"shop",` +
			`"backend":"10.0.0.1:80","attempts":1,"bytes_in":3,"bytes_out":1024,"duration":0.001234,"upstream_first_byte":0.001000,"request_id":"r-1"}` + "\n"},
		{"refused by the parser", refused, `{"time":"1970-01-01T00:00:00.000Z","client":"[2001:db8::1]:1","listener":"web",` +
			`"protocol":"HTTP/1.1","status":400,"reason":"bad_request","source":"client","attempts":0,"bytes_in":0,"bytes_out":0,"duration":0.000000,` +
			`"error":"no \"Host\" field"}` + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b logBuffer
			for range 2 { // the second time with the second's stamp at hand
				got := string(b.appendLine(nil, c.in))
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("want -, got +\n%s", diff)
				}
				if !json.Valid([]byte(got)) {
					t.Error("not JSON")
				}
			}
		})
	}
}

func TestACombinedLineIsAsNginxWritesIt(t *testing.T) {
	o := typicalOutcome()
	o.referer, o.agent = "https://shop.example/", "curl/8 \"x\"\n"
	for _, c := range []struct {
		in   *outcome
		want string
	}{
		{o, `192.0.2.1 - - [01/Mar/2026:12:00:00 +0000] "GET /a?b=c HTTP/1.1" 200 1024 "https://shop.example/" "curl/8 \x22x\x22\x0A"` + "\n"},
		{&outcome{start: time.Unix(0, 0), status: 400}, `- - - [01/Jan/1970:00:00:00 +0000] "-" 400 0 "-" "-"` + "\n"},
	} {
		var b logBuffer
		if got := string(b.appendCombined(nil, c.in)); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// Whatever a client writes, a line is one line of JSON and says what the client
// wrote as far as that can be said in UTF-8.
func FuzzAccessLog(f *testing.F) {
	for _, s := range []string{"/", `"},{"status":200`, "\n{\"", "\xff\xfe", "\u2028é\x7f\x00\\", "\xe2\x80", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o := typicalOutcome()
		o.target, o.host, o.method, o.requestID, o.err = s, s, s, s, errors.New(s)
		var b logBuffer
		line := b.appendLine(nil, o)
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("more than a line: %q", line)
		}
		var got struct{ Path string }
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && len(s) <= maxLogText && got.Path != want {
			t.Errorf("got %q, want %q", got.Path, want)
		}
	})
}

// slowWriter blocks until it is let go.
type slowWriter struct {
	let   chan struct{}
	mu    sync.Mutex
	lines int
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.let
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func TestASlowDiskDropsLinesAndCountsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{let: make(chan struct{})}
		l := newAccessLog(w, 2, noLog)
		const each = 5000
		for range each {
			l.record(0, typicalOutcome())
			l.record(1, typicalOutcome())
		}
		time.Sleep(logGather)
		synctest.Wait() // the writer hangs in its first write
		for range each {
			l.record(0, typicalOutcome())
		}
		if n := l.dropped(); n == 0 {
			t.Error("nothing was dropped")
		}
		close(w.let)
		l.close()
		if total := uint64(w.lines) + l.dropped(); total != 3*each {
			t.Errorf("%d written + %d dropped, want %d", w.lines, l.dropped(), 3*each)
		}
		for i := range l.buffers {
			if n := cap(l.buffers[i].lines) + cap(l.buffers[i].spare); n > 4*maxLogBuffer {
				t.Errorf("buffers of %d bytes", n)
			}
		}
	})
}

func TestLinesAreWrittenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newAccessLog(&out, 1, noLog)
		for want := 1; want < 4; want++ {
			l.record(0, typicalOutcome())
			time.Sleep(2 * logGather)
			synctest.Wait()
			if n := bytes.Count(out.Bytes(), []byte("\n")); n != want {
				t.Errorf("%d lines after a while, want %d", n, want)
			}
		}
		l.close()
	})
}

func BenchmarkAccessLogLine(b *testing.B) {
	var buf logBuffer
	o := typicalOutcome()
	line := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		line = buf.appendLine(line[:0], o)
	}
	b.SetBytes(int64(len(line)))
}

// BenchmarkAccessLog is as fast as lines are not lost.
func BenchmarkAccessLog(b *testing.B) {
	l := newAccessLog(io.Discard, 1, noLog)
	defer l.close()
	o := typicalOutcome()
	b.ReportAllocs()
	for b.Loop() {
		for lost := l.dropped(); ; lost = l.dropped() {
			if l.record(0, o); l.dropped() == lost {
				break
			}
			runtime.Gosched()
		}
	}
}
