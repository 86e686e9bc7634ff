package l7

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// slowly is a backend that answers 200 "late" after so long; it tells how many
// requests it read whole. After never it does not answer.
func slowly(after time.Duration, requests *atomic.Int64) func(*peer) {
	return func(c *peer) {
		for {
			head := c.request()
			if head == "" {
				return
			}
			n := 0
			fmt.Sscan(field(head, "content-length"), &n)
			c.body(n)
			requests.Add(1)
			if strings.Contains(head, "/hint") {
				c.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
			}
			if after == never {
				c.rest()
				return
			}
			time.Sleep(after)
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
		}
	}
}

const never = -1

func TestAnotherBackendIsAskedWhenOneIsLate(t *testing.T) {
	small, big := strings.Repeat("x", 60<<10), strings.Repeat("x", 65<<10)
	with := func(method, body string) string {
		return fmt.Sprintf("%s / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", method, len(body), body)
	}
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, c := range []struct {
		name, route, request string
		after                time.Duration // the slow one answers
		want                 string        // the responses to two requests; the slow one has its turn among them
	}{
		{"GET", "timeout: { request: 300ms }", get, never, "200 GET / HTTP/1.1|, 200 GET / HTTP/1.1|"},
		{"DELETE", "timeout: { request: 300ms }", "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", never, "200 DELETE / HTTP/1.1|, 200 DELETE / HTTP/1.1|"},
		{"PUT with a body that is kept", "timeout: { request: 300ms }", with("PUT", small), never, "200 PUT / HTTP/1.1|" + small + ", 200 PUT / HTTP/1.1|" + small},
		{"PUT with a body too large to keep", "timeout: { request: 300ms }", with("PUT", big), never, "200, 504"},
		{"POST", "timeout: { request: 300ms }", with("POST", "ab"), never, "200, 504"},
		{"POST where it may come twice", "timeout: { request: 300ms }, retry: { methods: [POST] }", with("POST", "ab"), never, "200 POST / HTTP/1.1|ab, 200 POST / HTTP/1.1|ab"},
		{"GET where it may not", "timeout: { request: 300ms }, retry: { methods: [POST] }", get, never, "200, 504"},
		{"one attempt only", "timeout: { request: 300ms }, retry: { attempts: 1 }", get, never, "200, 504"},
		{"not on timeout", "timeout: { request: 300ms }, retry: { on: [connect, reset, refused] }", get, never, "200, 504"},
		{"an attempt has less than the last", "timeout: { attempt: 300ms, request: 10s }", get, never, "200 GET / HTTP/1.1|, 200 GET / HTTP/1.1|"},
		{"what cannot follow has all the time", "timeout: { attempt: 20ms, request: 10s }", with("POST", "ab"), 200 * time.Millisecond, "200 POST / HTTP/1.1|ab, 200 late"},
		{"after an interim response it is that backend's", "timeout: { request: 300ms }", "GET /hint HTTP/1.1\r\nHost: a\r\n\r\n", never, "103, 200"},
		{"no longer than the total", "timeout: { request: 10s, total: 300ms }", get, never, "200, 504"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			slow, quick := startOrigin(t, slowly(c.after, &asked)), startOrigin(t, echo)
			l := startLab(t, labOptions{}, routed(c.route, slow.addr, quick.addr))
			var got []string
			for range 2 {
				p := l.dial()
				go p.say(c.request)
				r := p.response()
				text := strings.TrimPrefix(strings.TrimPrefix(r.status, "HTTP/1.1 ")[:3]+" "+r.body, " ")
				if !strings.Contains(c.want, "|") {
					text = text[:3]
				}
				got = append(got, text)
			}
			if got[0] > got[1] {
				got[0], got[1] = got[1], got[0]
			}
			if said := strings.Join(got, ", "); said != c.want {
				t.Errorf("got %s, want %s", shorten(said), shorten(c.want))
			}
			if asked.Load() == 0 {
				t.Error("the slow backend was not asked")
			}
		})
	}
}

func TestALateBackendKeepsWhatNobodyElseCanAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		route    string
		backends int
		requests int64
	}{
		"the only one":              {"timeout: { attempt: 100ms, request: 10s }", 1, 1},
		"the last of two that were": {"timeout: { attempt: 100ms, request: 10s }", 2, 2},
		"of three the second":       {"timeout: { attempt: 100ms, request: 10s }", 3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			var backends []string
			for range c.backends {
				backends = append(backends, startOrigin(t, slowly(400*time.Millisecond, &asked)).addr)
			}
			l := startLab(t, labOptions{}, routed(c.route, backends...))
			l.dial().get("/").want(t, "200", "late")
			if asked.Load() != c.requests {
				t.Errorf("%d requests came to backends, want %d", asked.Load(), c.requests)
			}
		})
	}
}

// Where the budget is spent a late backend is waited for as long as without
// retries: giving up would make slow backends failing ones.
func TestWithoutBudgetALateBackendIsWaitedFor(t *testing.T) {
	var asked atomic.Int64
	a, b := startOrigin(t, slowly(150*time.Millisecond, &asked)), startOrigin(t, slowly(150*time.Millisecond, &asked))
	l := startLab(t, labOptions{}, routed("timeout: { attempt: 10ms, request: 10s }, retry: { budget: 0% }", a.addr, b.addr))
	c := l.dial()
	for range 2 { // a window may end in the middle of one
		before := l.count("lbd_retries_total")
		for range 14 {
			c.get("/").want(t, "200", "late")
		}
		if n := l.count("lbd_retries_total") - before; n <= 10 {
			return
		}
	}
	t.Error("more than 10 retries in 10 s")
}

func TestCallsMayBeAskedOfAnotherBackend(t *testing.T) {
	silent := startRawOrigin(t, func(r *raw, _ int) {
		for r.awaitRequest() != 0 {
		}
	})
	quick := startRawOrigin(t, func(r *raw, _ int) {
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.DataFrame); ok && f.StreamEnded() {
				r.head(f.StreamID, false, ":status", "200", "content-type", "application/grpc")
				r.fr.WriteData(f.StreamID, false, f.Data())
				r.head(f.StreamID, true, "grpc-status", "0")
			}
		}
	})
	answered := []string{"HEADERS 1 :status=200 content-type=application/grpc", `DATA 1 "\x00\x00\x00\x00\x02hi"`, "HEADERS 1 grpc-status=0 end"}
	late := "HEADERS 1 :status=200 content-type=application/grpc grpc-status=4 grpc-message=upstream_timeout content-length=0 end"
	for name, c := range map[string]struct {
		route string
		twice bool // every call is answered
	}{
		"where the route says so":    {"timeout: { request: 300ms }, retry: { methods: [POST] }", true},
		"not where it does not":      {"timeout: { request: 300ms }", false},
		"within the client's time":   {"timeout: { attempt: 300ms }, retry: { methods: [POST] }", true},
		"not after the client's one": {"timeout: { attempt: 50s }, retry: { methods: [POST] }", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			document := strings.Replace(routed(c.route, silent.addr, quick.addr), "app: {", "app: { protocol: grpc,", 1)
			l := startLab(t, labOptions{}, document)
			failed := 0
			for range 2 {
				r := l.raw()
				if strings.Contains(name, "client's") {
					r.call(1, "grpc-timeout", "2000m")
				} else {
					r.call(1)
				}
				first := r.next()
				switch first {
				case late:
					failed++
				case answered[0]:
					r.want(answered[1:]...)
				default:
					t.Fatal(first)
				}
			}
			if c.twice != (failed == 0) {
				t.Errorf("%d calls of 2 were not answered", failed)
			}
		})
	}
}
