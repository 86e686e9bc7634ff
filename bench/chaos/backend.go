package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
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

// writeCertificate makes a certificate that nobody believes.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chaos"}, NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"chaos"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o644),
		os.WriteFile(filepath.Join(dir, "key.pem"), secret, 0o600),
		os.WriteFile(filepath.Join(dir, "both.pem"), append(cert, secret...), 0o600))
}
