package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// holders are processes that hold connections.
type holders []*holding

type holding struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// hold makes n connections that have had a response each, in processes that may
// open so many files. Their addresses are those of the block.
func (s *server) hold(n, files, block int) (holders, error) {
	var all holders
	for i := 0; n > 0; i++ {
		share := min(n, files-1000)
		n -= share
		h, err := s.holder(share, block*16+i)
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	var errs error
	for _, h := range all {
		if line, err := h.out.ReadString('\n'); err != nil || line != "ready\n" {
			errs = errors.Join(errs, fmt.Errorf("a holder says %q: %v", line, err))
		}
	}
	return all, errs
}

func (s *server) holder(n, block int) (*holding, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-holder", s.addr, "-n", strconv.Itoa(n), "-block", strconv.Itoa(block), "-tls="+strconv.FormatBool(s.secure))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &holding{cmd, in, bufio.NewReader(out)}, cmd.Start()
}

// lost asks all holders how many of their connections do not answer any more.
func (all holders) lost() (sum int, err error) {
	for _, h := range all {
		fmt.Fprintln(h.in, "check")
	}
	for _, h := range all {
		line, err := h.out.ReadString('\n')
		if err != nil {
			return sum, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return sum, err
		}
		sum += n
	}
	return sum, nil
}

func (all holders) end() {
	for _, h := range all {
		h.in.Close()
	}
	for _, h := range all {
		h.cmd.Wait()
	}
}

// hold is such a process.
func hold(addr string, n, block int, secure bool) {
	conns, err := open(addr, n, block, secure)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		lost := 0
		for _, c := range conns {
			if !answers(c) {
				lost++
			}
		}
		fmt.Println(lost)
	}
}

// perAddress is how many connections come from one address of 127/8.
const perAddress = 10_000

func open(addr string, n, block int, secure bool) ([]net.Conn, error) {
	conns := make([]net.Conn, n)
	errs := make(chan error, runtime.NumCPU())
	var next atomic.Int64
	var making sync.WaitGroup
	for range cap(errs) {
		making.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				c, err := dial(addr, block<<8|i/perAddress+1, secure)
				if err == nil && !answers(c) {
					err = fmt.Errorf("connection %d is not answered", i)
				}
				if err != nil {
					errs <- err
					return
				}
				conns[i] = c
			}
		})
	}
	making.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return conns, nil
	}
}

// dial comes from 127.1.x.y.
func dial(addr string, from int, secure bool) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(from>>8), byte(from))}, KeepAlive: -1,
		Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			})
		}}
	c, err := d.Dial("tcp", addr)
	if err != nil || !secure {
		return c, err
	}
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true}), nil
}

// answers reports whether a request on c is answered.
func answers(c net.Conn) bool {
	var in [512]byte
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: idle.example\r\nUser-Agent: idle\r\n\r\n")); err != nil {
		return false
	}
	n, err := c.Read(in[:])
	return err == nil && strings.HasPrefix(string(in[:n]), "HTTP/1.1 200")
}
