package app

import (
	"net"
	"os"
)

// notify tells systemd how far we are (sd_notify(3)); without it, nobody.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:] // an abstract socket
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // it is a courtesy
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
