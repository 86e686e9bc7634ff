package l7

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// proxyHeader reads what stands before a connection's own bytes when a load
// balancer that speaks the PROXY protocol is in front: version 1 or 2 of
// HAProxy's proxy-protocol.txt (2.2). It is a codec: bytes in, addresses out,
// the same ones in whatever pieces the bytes come. The zero value is ready.
type proxyHeader struct {
	// Of the connection that is proxied. Not valid: the header names none that
	// we know (LOCAL, UNKNOWN, UNIX), and the socket's own count.
	source, destination netip.AddrPort

	head [proxyMax1]byte
	have int
	want int // of version 2: how much of head is needed; 0: not known yet
	skip int // of version 2: bytes that follow and say nothing to us
}

const (
	proxyMax1  = 107 // bytes of a version 1 header, CRLF included
	proxyHead2 = 16  // bytes of a version 2 header before the addresses
)

// proxySignature begins a version 2 header.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// The kinds of version 2: command, family and protocol.
const (
	proxyLocal = 0x20
	proxyProxy = 0x21

	proxyTCP4 = 0x11
	proxyTCP6 = 0x21
)

var (
	errNoProxyHeader  = errors.New("the connection does not begin with a PROXY header")
	errBadProxyHeader = errors.New("the PROXY header is not valid")
)

// read takes bytes and returns those behind the header, once it is whole.
func (h *proxyHeader) read(p []byte) (rest []byte, whole bool, err error) {
	for h.skip == 0 {
		if len(p) == 0 {
			return nil, false, nil
		}
		h.head[h.have] = p[0]
		h.have++
		p = p[1:]
		if whole, err := h.step(); whole || err != nil {
			return p, whole, err
		}
	}
	n := min(h.skip, len(p))
	h.skip -= n
	return p[n:], h.skip == 0, nil
}

// step looks at the bytes so far, which the last one may have made whole.
func (h *proxyHeader) step() (whole bool, err error) {
	b := h.head[:h.have]
	switch {
	case h.want > 0 && h.have == h.want:
		return h.addresses()
	case h.want > 0:
		return false, nil
	case strings.HasPrefix(proxySignature, string(b[:min(len(b), len(proxySignature))])):
		if h.have == proxyHead2 {
			return h.frame()
		}
		return false, nil
	case !strings.HasPrefix("PROXY ", string(b[:min(len(b), len("PROXY "))])):
		return false, errNoProxyHeader
	case bytes.HasSuffix(b, []byte("\r\n")):
		return true, h.line(string(b[:len(b)-2]))
	case h.have == proxyMax1, b[len(b)-1] == '\n':
		return false, errBadProxyHeader
	}
	return false, nil
}

// line reads a version 1 header.
func (h *proxyHeader) line(line string) error {
	f := strings.Split(line, " ")
	if f[1] == "UNKNOWN" {
		return nil // whatever follows is to be ignored
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return errBadProxyHeader
	}
	source, ok1 := proxyAddress(f[2], f[4], f[1] == "TCP4")
	destination, ok2 := proxyAddress(f[3], f[5], f[1] == "TCP4")
	if !ok1 || !ok2 {
		return errBadProxyHeader
	}
	h.source, h.destination = source, destination
	return nil
}

func proxyAddress(host, port string, v4 bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(host)
	if err != nil || a.Is4() != v4 || a.Zone() != "" {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port { // no sign, no leading zeros
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// frame reads the fixed part of a version 2 header: what follows, and how much
// of it we want.
func (h *proxyHeader) frame() (whole bool, err error) {
	command, kind := h.head[12], h.head[13]
	length := int(binary.BigEndian.Uint16(h.head[14:]))
	addresses := 0
	switch {
	case command == proxyLocal: // whatever follows is to be skipped
	case command != proxyProxy || kind>>4 > 3 || kind&15 > 2:
		return false, errBadProxyHeader
	case kind == proxyTCP4:
		addresses = 12
	case kind == proxyTCP6:
		addresses = 36
	}
	if length < addresses {
		return false, errBadProxyHeader
	}
	if addresses > 0 {
		h.want, h.skip = proxyHead2+addresses, 0
		return false, nil
	}
	h.skip = length
	return length == 0, nil
}

// addresses reads those of a version 2 header; what is behind them, TLVs, is
// skipped.
func (h *proxyHeader) addresses() (whole bool, err error) {
	b := h.head[proxyHead2:h.want]
	size := (len(b) - 4) / 2
	source, _ := netip.AddrFromSlice(b[:size])
	destination, _ := netip.AddrFromSlice(b[size : 2*size])
	ports := b[2*size:]
	h.source = netip.AddrPortFrom(source.Unmap(), binary.BigEndian.Uint16(ports))
	h.destination = netip.AddrPortFrom(destination.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	h.skip = int(binary.BigEndian.Uint16(h.head[14:])) - len(b)
	return h.skip == 0, nil
}

// appendProxyHeader appends a version 2 header for a proxied TCP connection.
// Addresses of two families are both written as IPv6. Without addresses it says
// LOCAL: a connection of our own, such as a check.
func appendProxyHeader(b []byte, source, destination netip.AddrPort) []byte {
	b = append(b, proxySignature...)
	from, to := source.Addr().Unmap(), destination.Addr().Unmap()
	switch {
	case !from.IsValid() || !to.IsValid():
		return append(b, proxyLocal, 0, 0, 0)
	case from.Is4() && to.Is4():
		b = append(b, proxyProxy, proxyTCP4, 0, 12)
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	default:
		b = append(b, proxyProxy, proxyTCP6, 0, 36)
		from, to := from.As16(), to.As16()
		b = append(append(b, from[:]...), to[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, source.Port())
	return binary.BigEndian.AppendUint16(b, destination.Port())
}
