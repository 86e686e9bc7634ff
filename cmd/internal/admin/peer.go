package admin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// limited is a listener with a bound on open connections; more wait in the
// accept queue.
type limited struct {
	net.Listener
	places chan struct{}
}

// limitedConn gives its place back when it closes.
type limitedConn struct {
	net.Conn
	leave func()
}

func (l limited) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{c, sync.OnceFunc(func() { <-l.places })}, nil
}

// empty waits until no connection is open, and no longer than that.
func (l limited) empty(limit time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); len(l.places) > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

type peerKey struct{}

// withPeer keeps who connected, as the kernel says.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(*limitedConn); ok {
		c = l.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	who, err := credentials(u)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, who)
}

// peer is who asks: "uid 0 (pid 4711)".
func peer(r *http.Request) string {
	if who, ok := r.Context().Value(peerKey{}).(string); ok {
		return who
	}
	return "unknown"
}

func credentials(c *net.UnixConn) (string, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", err
	}
	var u *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		u, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return "", err
	}
	if failed != nil {
		return "", failed
	}
	return fmt.Sprintf("uid %d (pid %d)", u.Uid, u.Pid), nil
}
