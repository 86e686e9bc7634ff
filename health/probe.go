package health

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cirque-lb/lb"
)

const (
	maxAnswer = 64 << 10 // bytes of an answer that are read, head and body
	maxEarly  = 8        // 1xx responses before the real one
)

// prober asks one backend once.
type prober struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// probe says what it saw of a backend that is well, or what is wrong with it.
// It ends within the check's timeout, or when ctx ends.
func (p prober) probe(ctx context.Context, t Target) (saw string, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.Check.Timeout)
	defer cancel()
	conn, err := p.connect(ctx, t)
	if err != nil {
		return "", plain("connect", err, t.Check.Timeout)
	}
	defer conn.Close()
	cut := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer cut()
	switch c := t.Check; {
	case c.HTTP != "":
		return probeHTTP(conn, t)
	case c.GRPC != nil:
		return probeGRPC(ctx, conn, t)
	}
	return "connected", nil
}

func (p prober) connect(ctx context.Context, t Target) (net.Conn, error) {
	network, address := "tcp", t.ID.Address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	conn, err := p.dial(ctx, network, address)
	if err == nil && t.Proxy {
		err = sendLocal(ctx, conn)
	}
	if err != nil || t.TLS == nil {
		return conn, err
	}
	secure := tls.Client(conn, t.secured())
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("tls: %w", err)
	}
	return secure, nil
}

// localHeader is a PROXY header, version 2, of a connection that nobody is
// behind: LOCAL, without addresses.
const localHeader = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

func sendLocal(ctx context.Context, conn net.Conn) error {
	if end, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(end)
	}
	if _, err := io.WriteString(conn, localHeader); err != nil {
		conn.Close()
		return fmt.Errorf("send the PROXY header: %w", err)
	}
	return nil
}

// secured is the target's TLS with what only a probe knows.
func (t Target) secured() *tls.Config {
	config := t.TLS.Clone()
	if host, _, err := net.SplitHostPort(t.ID.Address); err == nil {
		config.ServerName = cmp.Or(config.ServerName, host)
	}
	config.NextProtos = []string{"http/1.1"}
	if t.Check.GRPC != nil {
		config.NextProtos = []string{"h2"}
	}
	return config
}

// probeHTTP sends a GET and looks at the status.
func probeHTTP(conn net.Conn, t Target) (saw string, err error) {
	host := cmp.Or(t.Check.Host, authority(t.ID.Address))
	head := "GET " + t.Check.HTTP + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: lbd-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		return "", plain("send request", err, t.Check.Timeout)
	}
	in := bufio.NewReaderSize(io.LimitReader(conn, maxAnswer), 4096)
	res, err := finalResponse(in)
	if err != nil {
		return "", plain("read response", err, t.Check.Timeout)
	}
	// What the backend still sends is read, within bounds: closing on unread
	// data would reset the connection, and fill its log.
	io.Copy(io.Discard, res.Body)
	if want := t.Check.Expect; want.From != 0 && (res.StatusCode < want.From || res.StatusCode > want.To) {
		return "", fmt.Errorf("status %d, expected %s", res.StatusCode, rangeText(want))
	}
	return fmt.Sprintf("status %d", res.StatusCode), nil
}

func finalResponse(in *bufio.Reader) (*http.Response, error) {
	for range maxEarly {
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode >= 200 {
			return res, err
		}
	}
	return nil, errors.New("only 1xx responses")
}

// authority is the Host of a backend that is not told another one.
func authority(address string) string {
	if strings.HasPrefix(address, "unix:") {
		return "localhost"
	}
	return address
}

func rangeText(r lb.StatusRange) string {
	if r.From == r.To {
		return fmt.Sprint(r.From)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// plain turns the usual errors into the words an operator uses.
func plain(doing string, err error, timeout time.Duration) error {
	var number syscall.Errno
	var timed interface{ Timeout() bool }
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		return fmt.Errorf("%s: no answer within %v", doing, timeout)
	case errors.As(err, &number):
		return fmt.Errorf("%s: %w", doing, number)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: connection closed early", doing)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
