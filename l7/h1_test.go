package l7

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func dup(f *os.File) (int, error) { return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) }

func TestARequestReachesABackendAndItsResponseReturns(t *testing.T) {
	heads := make(chan string, 2)
	o := startOrigin(t, func(c *peer) {
		for {
			head := c.request()
			if head == "" {
				return
			}
			heads <- head
			c.say(ok)
		}
	})
	c := startLab(t, labOptions{}, pool(o.addr)).dial()
	c.get("/x?y=z").want(t, "200 OK", "ok")
	head := <-heads
	for name, want := range map[string]string{"host": "a.example", "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "a.example"} {
		if got := field(head, name); got != want {
			t.Errorf("%s: got %q, want %q\n%s", name, got, want, head)
		}
	}
	c.get("/x").want(t, "200 OK", "ok")
	<-heads
	if n := o.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend, want 1", n)
	}
}
