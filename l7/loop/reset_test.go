package loop

import (
	"net"
	"testing"
)

// acceptedPair is a connection of l that a client made, and the client's end.
func acceptedPair(t *testing.T, l *Loop) (*recorder, *net.TCPConn) {
	t.Helper()
	fds := make(chan int, 1)
	c, err := net.Dial("tcp", listenOn(t, l, func(fd int) { fds <- fd }))
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{events: make(chan string, 10)}
	fd := wait(t, fds)
	on(t, l, func() {
		if err := r.conn.Init(l, fd, r); err != nil {
			t.Error(err)
		}
	})
	return r, c.(*net.TCPConn)
}

// reset ends a connection by RST.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

func TestAResetIsToldWhilePausedToo(t *testing.T) {
	for _, paused := range []bool{false, true} {
		l := running(t)
		r, c := acceptedPair(t, l)
		on(t, l, func() {
			if paused {
				r.conn.Pause()
			}
		})
		reset(c)
		r.want(t, "reset")
		on(t, l, r.conn.Close)
	}
}

// The kernel tells of a reset once: who writes first takes the error away, and
// the read behind it finds what looks like the peer's FIN.
func TestAResetThatAWriteMetIsNoEnd(t *testing.T) {
	for name, write := range map[string]int{"that is small": 1, "that blocks": 32 << 20} {
		t.Run("a write "+name, func(t *testing.T) {
			l := running(t)
			r, c := acceptedPair(t, l)
			on(t, l, func() {
				if write > 1 {
					r.conn.Write(make([]byte, write))
				}
			})
			on(t, l, func() {
				reset(c)
				r.conn.Write([]byte("x"))
			})
			r.want(t, "reset")
			on(t, l, r.conn.Close)
		})
	}
}
