package loop

import (
	"bytes"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// kernelWants says how much of the kernel's memory for TCP all sockets of this
// host together have. Any thread may ask.
var kernelWants = sync.OnceValue(func() func() want {
	usage, err := os.Open("/proc/net/sockstat")
	if err != nil {
		return func() want { return wantNothing }
	}
	most := kernelMost()
	return func() want {
		var b [512]byte
		n, _ := unix.Pread(int(usage.Fd()), b[:], 0)
		switch pages := tcpPages(b[:max(n, 0)]); {
		case pages >= most:
			return wantMuch
		case pages >= most/2:
			return wantLittle
		}
		return wantNothing
	}
})

// tcpPages is the memory of all TCP sockets, of what the kernel says of them.
func tcpPages(sockstat []byte) int64 {
	_, tcp, _ := bytes.Cut(sockstat, []byte("TCP: "))
	tcp, _, _ = bytes.Cut(tcp, []byte("\n"))
	_, mem, _ := bytes.Cut(tcp, []byte("mem "))
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(mem)), 10, 64)
	return n
}

// kernelMost is the first number of tcp_mem, in pages, above which the kernel may
// become sparing; or what that is by
// default, in a network namespace, where the kernel does not tell.
func kernelMost() int64 {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_mem")
	if f := bytes.Fields(text); len(f) == 3 {
		if n, err := strconv.ParseInt(string(f[0]), 10, 64); err == nil && n > 0 {
			return n
		}
	}
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return 1 << 62
	}
	return int64(uint64(host.Totalram)*uint64(host.Unit)/64*3) / int64(os.Getpagesize())
}
