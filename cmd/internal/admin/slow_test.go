package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cirque-lb/lb"
)

// pipes is a listener of connections in memory, which have a bubble's clock.
type pipes struct {
	accept chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{accept: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.accept <- there
	return here
}

// slowly serves a fake to connections in memory.
func slowly(t *testing.T, do func(t *testing.T, p *pipes, f *fake)) {
	synctest.Test(t, func(t *testing.T) {
		p, f := newPipes(), newFake()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, p, f, Options{Log: slog.New(slog.DiscardHandler)}) }()
		do(t, p, f)
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// untilClosed reads to the end and says how long that took.
func untilClosed(c net.Conn) (time.Duration, string) {
	start := time.Now()
	text, _ := io.ReadAll(c)
	return time.Since(start), string(text)
}

func TestAClientThatDoesNotFinishItsHeadIsCutOff(t *testing.T) {
	slowly(t, func(t *testing.T, p *pipes, _ *fake) {
		c := p.dial()
		defer c.Close()
		io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: lbd\r\n")
		if d, _ := untilClosed(c); d != headTime {
			t.Errorf("cut off after %s, want %s", d, headTime)
		}
	})
}

func TestAClientThatSaysNothingIsCutOff(t *testing.T) {
	slowly(t, func(t *testing.T, p *pipes, _ *fake) {
		c := p.dial()
		defer c.Close()
		if d, _ := untilClosed(c); d != headTime {
			t.Errorf("cut off after %s, want %s", d, headTime)
		}
	})
}

func TestAClientThatDripsABodyIsRefused(t *testing.T) {
	slowly(t, func(t *testing.T, p *pipes, f *fake) {
		c := p.dial()
		defer c.Close()
		fmt.Fprintf(c, "PUT /v1/config HTTP/1.1\r\nHost: lbd\r\nContent-Length: 1000\r\n\r\n")
		stop := make(chan struct{})
		var dripping sync.WaitGroup
		dripping.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					if _, err := io.WriteString(c, "#"); err != nil {
						return
					}
				}
			}
		})
		start := time.Now()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != http.StatusBadRequest {
			t.Errorf("answer %v, %v; want 400", res, err)
		}
		if d := time.Since(start); d > readTime {
			t.Errorf("refused after %s, want at most %s", d, readTime)
		}
		close(stop)
		c.Close()
		dripping.Wait()
		if f.asked() != nil {
			t.Error("half a document was applied")
		}
	})
}

// A watcher that reads nothing holds its place for so long, and nobody up.
func TestAWatcherThatDoesNotReadIsCutOff(t *testing.T) {
	slowly(t, func(t *testing.T, p *pipes, f *fake) {
		c := p.dial()
		defer c.Close()
		io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: lbd\r\nAccept: text/event-stream\r\n\r\n")
		for range 100 {
			f.tell(lb.Event{Kind: strings.Repeat("x", 1000)})
		}
		time.Sleep(answerTime + time.Second)
		synctest.Wait()
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := io.ReadAll(c); errors.Is(err, context.DeadlineExceeded) || err != nil && strings.Contains(err.Error(), "deadline") {
			t.Errorf("it is still open after %s: %v", answerTime, err)
		}
	})
}

// One that reads is never cut off, however long nothing happens.
func TestAWatcherThatReadsStays(t *testing.T) {
	slowly(t, func(t *testing.T, p *pipes, f *fake) {
		c := p.dial()
		defer c.Close()
		io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: lbd\r\nAccept: text/event-stream\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 64)
		go func() {
			lines := bufio.NewScanner(res.Body)
			for lines.Scan() {
				if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
					got <- data
				}
			}
			close(got)
		}()
		time.Sleep(time.Hour)
		f.tell(lb.Event{Kind: "late"})
		synctest.Wait()
		select {
		case text, open := <-got:
			if !open || !strings.Contains(text, "late") {
				t.Errorf("got %q, open %v", text, open)
			}
		default:
			t.Error("the event after an hour did not come")
		}
	})
}

func TestAHeadBeyondItsBoundIsRefused(t *testing.T) {
	slowly(t, func(t *testing.T, p *pipes, _ *fake) {
		c := p.dial()
		defer c.Close()
		go fmt.Fprintf(c, "GET /v1/status HTTP/1.1\r\nHost: lbd\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHead))
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("answer %v, %v; want 431", res, err)
		}
	})
}
