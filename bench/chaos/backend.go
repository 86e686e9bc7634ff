package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// serveBackend answers requests as their paths say, upgrades to an echo, or
// echoes from the start.
func serveBackend(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go serveConn(c)
	}
}

func serveConn(c net.Conn) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		first, err := r.Peek(4)
		if err != nil || string(first) != "GET " && string(first) != "POST" {
			io.Copy(c, r)
			return
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") != "" {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n") // to the one key that clients send
			io.Copy(c, r)
			return
		}
		if answerTo(c, req) != nil {
			return
		}
	}
}

// How slow the slow answers are.
const slowness = 150 * time.Millisecond

func answerTo(c net.Conn, req *http.Request) error {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return err
	}
	size, _ := strconv.Atoi(req.URL.RawQuery)
	text := string(body)
	if req.Method != "POST" {
		text = answer(req.URL.Path, max(size, len(req.URL.Path)))
	}
	switch {
	case strings.HasPrefix(req.URL.Path, "/late/"):
		time.Sleep(around(slowness))
	case strings.HasPrefix(req.URL.Path, "/halves/"):
		half := len(text) / 2
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", half, text[:half])
		time.Sleep(around(slowness))
		_, err := fmt.Fprintf(c, "%x\r\n%s\r\n0\r\n\r\n", len(text)-half, text[half:])
		return err
	}
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	return err
}
