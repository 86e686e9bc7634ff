package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// What a rush is: upgrades as fast as they come, at half of what the proxy can
// serve, with clients that keep their connections, that make new ones, HTTP/2's
// and gRPC's.
const (
	rushUpgrades = 100
	rushTime     = 60 * time.Second
	rushClients  = 32 // of each kind
	rushConns    = 4  // that those of HTTP/2 share
	measureTime  = 5 * time.Second
)

// runRush measures how much can be served without a pause, then upgrades at half
// of that.
func runRush(s *site) (bool, error) {
	rate, err := busiest(s)
	if err != nil {
		return false, err
	}
	fmt.Printf("%.0f requests per second at most, with clients and backends on this machine\n", rate)
	l := newLoad()
	l.rush(s.ports(), rate/2)
	defer l.end()
	if err := l.await(); err != nil {
		return false, err
	}
	began, before := time.Now(), l.sum()
	done := 0
	for ; done < rushUpgrades && time.Since(began) < 2*rushTime && err == nil; done++ {
		err = s.upgrade(s.lbd)
		// Evenly, unless we are late.
		time.Sleep(time.Until(began.Add(time.Duration(done+1) * rushTime / rushUpgrades)))
	}
	took, sent := time.Since(began), l.sum().sent-before.sent
	l.end()
	ok := l.report(os.Stdout, took)
	fmt.Printf("%d upgrades in %v at %.0f requests per second\n", done, took.Round(time.Second/10), float64(sent)/took.Seconds())
	if err != nil {
		err = fmt.Errorf("upgrade %d: %w\n%s", done, err, s.tail())
	}
	return ok, err
}

// busiest is how many requests per second come back when nobody pauses.
func busiest(s *site) (float64, error) {
	l := newLoad()
	l.rush(s.ports(), 1e9)
	defer l.end()
	if err := l.await(); err != nil {
		return 0, err
	}
	before := l.sum()
	time.Sleep(measureTime)
	return float64(l.sum().sent-before.sent) / measureTime.Seconds(), nil
}

func (l *load) rush(at ports, rate float64) {
	pace := time.Duration(4 * rushClients / rate * float64(time.Second))
	web, tls := address(at.web), address(at.tls)
	l.clients(tallyOf("keep-alive", true), rushClients, pace, dialer{web, nil}, (*talk).quickly)
	l.clients(tallyOf("close", false), rushClients, pace, dialer{web, nil}, (*talk).once)
	l.http2(tallyOf("http2", false), rushConns, rushClients/rushConns, pace, dialer{tls, secured("h2")}, func(c *http.ClientConn, n int) error { return askH2(c, 10*n) })
	l.http2(tallyOf("grpc", false), rushConns, rushClients/rushConns, pace, dialer{tls, secured("h2")}, askGRPC)
}

// quickly asks what is answered at once.
func (k *talk) quickly() error {
	k.count += 9 // request: every tenth is a short GET
	k.count -= k.count % 10
	return k.ask()
}

// once asks for the end of the connection, too.
func (k *talk) once() error {
	k.last = true
	if err := k.quickly(); err != errLast {
		return err
	}
	return errDone
}

// askGRPC makes a unary call whose message comes back.
func askGRPC(c *http.ClientConn, n int) error {
	text := fmt.Appendf(nil, "call %d", n)
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "https://chaos/chaos.Echo/Say", bytes.NewReader(frame))
	if err != nil {
		return err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	res, err := c.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("call %d: %w", n, err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	status := res.Trailer.Get("Grpc-Status") + res.Header.Get("Grpc-Status") // a call that fails has no trailers
	switch {
	case err != nil:
		return fmt.Errorf("call %d: %w", n, err)
	case status != "0":
		return fmt.Errorf("call %d: grpc-status %q %s", n, status, res.Header.Get("Grpc-Message"))
	case !bytes.Equal(body, frame):
		return fmt.Errorf("%w: call %d", errWrong, n)
	}
	return nil
}

// serveGRPC is a backend of such calls.
func serveGRPC(ln net.Listener) {
	clear := new(http.Protocols)
	clear.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: clear, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		frame, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write(frame)
		w.Header().Set("Grpc-Status", "0")
	})}
	_ = s.Serve(ln) // until the listener is closed
}
