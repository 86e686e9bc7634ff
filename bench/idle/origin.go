package main

import (
	"net"
)

// serveOrigin answers every read with the same few bytes.
func serveOrigin() (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	return ln, nil
}

func answer(c net.Conn) {
	defer c.Close()
	in, out := make([]byte, 4<<10), []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	for {
		if _, err := c.Read(in); err != nil {
			return
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}
