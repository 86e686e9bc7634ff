package app

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notifyTimeout is how long systemd may take to make room for a message. It
// holds few, and takes none while it is stuck: nothing of ours may wait for that.
const notifyTimeout = time.Second

// notify tells systemd how far we are (sd_notify(3)), and gives it descriptors
// to keep; without systemd, nobody.
func notify(state string, fds ...int) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for end := time.Now().Add(notifyTimeout); ; {
		left := unix.NsecToTimeval(max(1000, time.Until(end).Nanoseconds())) // 0 would be for ever
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &left); err != nil {
			return err
		}
		// Sendmsg knows that a leading @ makes an abstract socket.
		err := unix.Sendmsg(fd, []byte(state), rights, &unix.SockaddrUnix{Name: path}, 0)
		if err != unix.EINTR {
			return err
		}
	}
}

// insist says what must not be lost, until it is heard or nobody wants it said
// any more.
func insist(ctx context.Context, state string) {
	for ctx.Err() == nil && errors.Is(notify(state), unix.EAGAIN) {
	}
}

// watchdogInterval is how often systemd wants to hear of us; 0: it does not.
func watchdogInterval() time.Duration {
	n, _ := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	return time.Duration(n) * time.Microsecond
}

// runWatchdog shows systemd that the node's loop turns. When that hangs nothing
// is said, systemd starts another supervisor, and the workers serve on.
func (d *daemon) runWatchdog(ctx context.Context) {
	limit := watchdogInterval()
	if limit <= 0 {
		return
	}
	ticker := time.NewTicker(max(limit/3, time.Millisecond))
	defer ticker.Stop()
	for {
		_ = d.node.Turn() // a node that stops has turned, too
		_ = notify("WATCHDOG=1")
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// firstStored is the first descriptor that systemd hands over.
const firstStored = 3

// stored are the descriptors that systemd kept of a supervisor that died, by
// name: who asks the admin API meanwhile waits in their queues.
type stored map[string]int

// openStored finds them. They are for this process alone, not for its children.
func openStored() stored {
	s := stored{}
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	ours := os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid())
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	for i := 0; ours && i < n; i++ {
		unix.CloseOnExec(firstStored + i)
		if i < len(names) {
			s[names[i]] = firstStored + i
		}
	}
	return s
}

// take gives back the listener of an address; nil: systemd kept none.
func (s stored) take(kind, address string) net.Listener {
	name := storedName(kind, address)
	fd, ok := s[name]
	if !ok {
		return nil
	}
	delete(s, name)
	defer unix.Close(fd)
	if _, err := os.Stat(address); kind == "admin" && err != nil {
		return nil // nobody finds it any more
	}
	return inheritListener(fd, address, address)
}

// drop forgets what nobody took: listeners of an earlier configuration.
func (s stored) drop() {
	for name, fd := range s {
		unix.Close(fd)
		_ = notify("FDSTOREREMOVE=1\nFDNAME=" + name)
	}
	clear(s)
}

// storedName has no colon, which separates names.
func storedName(kind, address string) string {
	return kind + "=" + strings.ReplaceAll(address, ":", "_")
}

// store has systemd keep the admin listeners for whom it starts if we die.
func (d *daemon) store() {
	for kind, l := range d.keepable() {
		fd, err := duplicate(l)
		if err != nil {
			continue
		}
		_ = notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+storedName(kind, d.address(kind)), fd)
		unix.Close(fd)
	}
}

// unstore takes them back: nobody shall wait for a supervisor that left, and
// the guard of an upgrade opens its own.
func (d *daemon) unstore() {
	for kind := range d.keepable() {
		_ = notify("FDSTOREREMOVE=1\nFDNAME=" + storedName(kind, d.address(kind)))
	}
}

func (d *daemon) keepable() map[string]net.Listener {
	all := map[string]net.Listener{}
	if d.socket != nil {
		all["admin"] = d.socket
	}
	if d.http != nil {
		all["http"] = d.http
	}
	return all
}

func (d *daemon) address(kind string) string {
	if kind == "admin" {
		return d.config.Admin.Socket
	}
	return cmp.Or(d.config.Admin.HTTP, "none")
}
