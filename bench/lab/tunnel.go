package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// What the consistency table's load adds: connections that live for long and
// carry bytes which both ends check.

const (
	beat      = 2 * time.Second // between two messages of a tunnel
	slowLines = 10              // of a slow response, one a second
)

// echoOf is where a machine echoes, beside what it serves at an address.
func echoOf(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()+1) }

// serveEcho repeats each line, behind the address of who brought it.
func serveEcho(ctx context.Context, name, address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("echo as %s: %w", name, err)
	}
	listener, err := net.Listen("tcp", echoOf(at).String())
	if err != nil {
		return fmt.Errorf("echo as %s: %w", name, err)
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()
	return nil
}

func echo(c net.Conn) {
	defer c.Close()
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().String()
	in := bufio.NewReaderSize(c, 256)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "%s %s", from, line); err != nil {
			return
		}
	}
}

// runTunnel keeps a connection through the TCP proxy, and opens another when it
// fails or a new life began.
func (l *load) runTunnel(ctx context.Context) {
	pause(ctx, rand.N(2*beat))
	for ctx.Err() == nil {
		if f := l.dial(ctx, tunnel, 0, echoOf(l.target)); f == nil || !l.chat(ctx, f) {
			pause(ctx, think)
		}
	}
}

// chat sends a line a beat, each of which must come back; false: it failed.
func (l *load) chat(ctx context.Context, f *flow) bool {
	life := l.life.Load()
	for ctx.Err() == nil && l.life.Load() == life {
		line := fmt.Sprintf("%d %x\n", f.answers, rand.Uint64())
		f.asked = time.Now()
		f.SetDeadline(f.asked.Add(time.Duration(l.answer.Load())))
		if _, err := io.WriteString(f, line); err != nil {
			l.fail(f, "request", err)
			return false
		}
		got, err := f.in.ReadString('\n')
		if err != nil {
			l.fail(f, "response", err)
			return false
		}
		from, text, _ := strings.Cut(got, " ")
		if text != line {
			l.fail(f, "wrong", fmt.Errorf("%q came back for %q", text, line))
			return false
		}
		f.answers++
		l.count(f.kind, tally{Requests: 1})
		l.landed(f, from)
		f.SetReadDeadline(time.Now().Add(beat/2 + rand.N(beat)))
		if b, err := f.in.Peek(1); !isTimeout(err) {
			l.fail(f, "idle", fmt.Errorf("%q came unasked, %w", b, err))
			return false
		}
	}
	l.end(f, tally{Ended: 1})
	return true
}

// tickSlowly numbers the lines of a response that ends.
func tickSlowly(w http.ResponseWriter, r *http.Request, name string) {
	w.Header().Set("X-Origin", name)
	flush := http.NewResponseController(w)
	for i := range slowLines {
		if _, err := fmt.Fprintf(w, "%d\n", i); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// runSlow reads one slow response after another, each on a connection of its own.
func (l *load) runSlow(ctx context.Context) {
	pause(ctx, rand.N(slowLines*time.Second))
	for ctx.Err() == nil {
		f, res := l.open(ctx, slow, 0, "/slow", true)
		if f == nil || !l.readSlow(f, res.Body) {
			pause(ctx, think)
		}
	}
}

// readSlow wants every line of a slow response, in order, and its end.
func (l *load) readSlow(f *flow, body io.Reader) bool {
	lines := bufio.NewScanner(body)
	next := 0
	for ; next < slowLines; next++ {
		f.SetReadDeadline(time.Now().Add(time.Duration(l.answer.Load())))
		if !lines.Scan() {
			break
		}
		if lines.Text() != strconv.Itoa(next) {
			l.fail(f, "wrong", fmt.Errorf("line %d is %q", next, lines.Text()))
			return false
		}
	}
	if next < slowLines || lines.Scan() || lines.Err() != nil {
		l.fail(f, "stream", errors.Join(fmt.Errorf("it ended after %d lines", next), lines.Err()))
		return false
	}
	l.end(f, tally{Ended: 1})
	return true
}
