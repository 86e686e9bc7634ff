package health

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
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
	if err := lasts(conn, t.Check.Certificate); err != nil {
		return "", err
	}
	switch c := t.Check; {
	case c.HTTP != "":
		return probeHTTP(conn, t)
	case c.GRPC != nil:
		return probeGRPC(ctx, conn, t)
	case c.Send != "" || c.Receive != "":
		return probeTCP(conn, t)
	}
	return "connected", nil
}

// lasts wants the backend's certificate to be good for a while longer. This is
// the one place that looks at the wall clock.
func lasts(conn net.Conn, while time.Duration) error {
	secure, ok := conn.(*tls.Conn)
	if !ok || while == 0 {
		return nil
	}
	for _, cert := range secure.ConnectionState().PeerCertificates[:1] {
		if left := time.Until(cert.NotAfter); left < while {
			return fmt.Errorf("its certificate ends on %s, in less than %v", cert.NotAfter.UTC().Format(time.RFC3339), while)
		}
	}
	return nil
}

// probeTCP sends what the check says and waits for what it wants to hear.
func probeTCP(conn net.Conn, t Target) (saw string, err error) {
	if _, err := io.WriteString(conn, t.Check.Send); err != nil {
		return "", plain("send", err, t.Check.Timeout)
	}
	if t.Check.Receive == "" {
		return "sent", nil
	}
	want, heard := []byte(t.Check.Receive), make([]byte, 0, 512)
	for len(heard) < maxAnswer {
		heard = slices.Grow(heard, 512)
		n, err := conn.Read(heard[len(heard):cap(heard)])
		heard = heard[:len(heard)+n]
		if bytes.Contains(heard, want) {
			return "received " + quoted(want), nil
		}
		if err != nil && len(heard) > 0 {
			return "", fmt.Errorf("received %s, expected %s", quoted(heard), quoted(want))
		}
		if err != nil {
			return "", plain("receive", err, t.Check.Timeout)
		}
	}
	return "", fmt.Errorf("received %d bytes without %s", len(heard), quoted(want))
}

// quoted is the beginning of an answer as a log may have it.
func quoted(b []byte) string {
	if len(b) > 40 {
		return fmt.Sprintf("%q...", b[:40])
	}
	return fmt.Sprintf("%q", b)
}

func (p prober) connect(ctx context.Context, t Target) (net.Conn, error) {
	network, address := "tcp", t.ID.Address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	dial := p.dial
	if t.Bind.IsValid() && network == "tcp" {
		dial = (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.Bind, 0))}).DialContext
	}
	conn, err := dial(ctx, network, address)
	if err == nil && t.Proxy {
		err = sendLocal(ctx, conn)
	}
	if err != nil || t.TLS == nil && !t.Check.TLS {
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
	config := &tls.Config{InsecureSkipVerify: true} // requests do not speak TLS, so nobody's name is at stake
	if t.TLS != nil {
		config = t.TLS.Clone()
	}
	if host, _, err := net.SplitHostPort(t.ID.Address); err == nil {
		config.ServerName = cmp.Or(config.ServerName, host)
	}
	config.NextProtos = []string{"http/1.1"}
	if t.Check.GRPC != nil {
		config.NextProtos = []string{"h2"}
	}
	return config
}

// probeHTTP sends a request and looks at the status, and at the body.
func probeHTTP(conn net.Conn, t Target) (saw string, err error) {
	host := cmp.Or(t.Check.Host, authority(t.ID.Address))
	method := cmp.Or(t.Check.Method, http.MethodGet)
	head := method + " " + t.Check.HTTP + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: lbd-check\r\nAccept: */*\r\nConnection: close\r\n"
	if method == http.MethodPost {
		head += "Content-Length: 0\r\n"
	}
	head += "\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		return "", plain("send request", err, t.Check.Timeout)
	}
	in := bufio.NewReaderSize(io.LimitReader(conn, maxAnswer), 4096)
	res, err := finalResponse(in, method)
	if err != nil {
		return "", plain("read response", err, t.Check.Timeout)
	}
	// What the backend still sends is read, within bounds: closing on unread
	// data would reset the connection, and fill its log.
	body, err := io.ReadAll(res.Body)
	if want := t.Check.Expect; len(want) > 0 && !want.Contains(res.StatusCode) {
		text, _ := want.MarshalText() // never fails
		return "", fmt.Errorf("status %d, expected %s", res.StatusCode, text)
	}
	switch want := t.Check.Body; {
	case want == "" || bytes.Contains(body, []byte(want)):
		return fmt.Sprintf("status %d", res.StatusCode), nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return "", plain("read body", err, t.Check.Timeout)
	}
	return "", fmt.Errorf("status %d, but the body %s is without %s", res.StatusCode, quoted(body), quoted([]byte(t.Check.Body)))
}

func finalResponse(in *bufio.Reader, method string) (*http.Response, error) {
	for range maxEarly {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
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
