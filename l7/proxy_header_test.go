package l7

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// v2 is a version 2 header of these parts.
func v2(command, kind byte, length int, rest string) string {
	return proxySignature + string([]byte{command, kind, byte(length >> 8), byte(length)}) + rest
}

const (
	tcp4 = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb" // 192.0.2.1:12345 -> 198.51.100.2:443
	tcp6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xff\xff\x00\x50"
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc6\x33\x64\x02\x30\x39\x01\xbb"
)

var proxyHeaders = []struct {
	name, bytes string
	want        string // "source destination", "own" for the socket's, or the error
}{
	{"v1, IPv4", "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n", "192.0.2.1:12345 198.51.100.2:443"},
	{"v1, the longest IPv4", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535 255.255.255.255:65535"},
	{"v1, IPv6", "PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 65535 0\r\n", "[2001:db8::1]:65535 [2001:db8::2]:0"},
	{"v1, IPv4 in IPv6", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1 2\r\n", "192.0.2.1:1 198.51.100.2:2"},
	{"v1, unknown, short", "PROXY UNKNOWN\r\n", "own"},
	{"v1, unknown, longest", "PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", "own"},
	{"v1, unknown, with addresses", "PROXY UNKNOWN 192.0.2.1 198.51.100.2 1 2\r\n", "own"},
	{"v1, too long", "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n", errBadProxyHeader.Error()},
	{"v1, no such family", "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, family of the other kind", "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, IPv6 as TCP4", "PROXY TCP4 ::1 ::2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, a zone", "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, octal address", "PROXY TCP4 192.0.02.1 198.51.100.2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, three numbers", "PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, octal port", "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n", errBadProxyHeader.Error()},
	{"v1, signed port", "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n", errBadProxyHeader.Error()},
	{"v1, port over 65535", "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n", errBadProxyHeader.Error()},
	{"v1, no port", "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n", errBadProxyHeader.Error()},
	{"v1, one field too many", "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n", errBadProxyHeader.Error()},
	{"v1, two spaces", "PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, a tab", "PROXY TCP4\t192.0.2.1 198.51.100.2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, space before CRLF", "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n", errBadProxyHeader.Error()},
	{"v1, bare LF", "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n", errBadProxyHeader.Error()},
	{"v1, bare CR", "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r\n", errBadProxyHeader.Error()},
	{"v1, NUL", "PROXY TCP4 192.0.2.1\x00 198.51.100.2 1 2\r\n", errBadProxyHeader.Error()},
	{"v1, nothing said", "PROXY \r\n", errBadProxyHeader.Error()},
	{"v1, lower case", "proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n", errNoProxyHeader.Error()},
	{"v1, no space", "PROXY\r\n", errNoProxyHeader.Error()},

	{"v2, IPv4", v2(0x21, 0x11, 12, tcp4), "192.0.2.1:12345 198.51.100.2:443"},
	{"v2, IPv6", v2(0x21, 0x21, 36, tcp6), "[2001:db8::1]:65535 [2001:db8::2]:80"},
	{"v2, IPv4 in IPv6", v2(0x21, 0x21, 36, mapped), "192.0.2.1:12345 198.51.100.2:443"},
	{"v2, TLVs", v2(0x21, 0x11, 12+7, tcp4+"\x04\x00\x04abcd"), "192.0.2.1:12345 198.51.100.2:443"},
	{"v2, TLVs that are none", v2(0x21, 0x11, 13, tcp4+"\xff"), "192.0.2.1:12345 198.51.100.2:443"},
	{"v2, as many TLVs as fit", v2(0x21, 0x21, 65535, tcp6+strings.Repeat("x", 65535-36)), "[2001:db8::1]:65535 [2001:db8::2]:80"},
	{"v2, local", v2(0x20, 0, 0, ""), "own"},
	{"v2, local with addresses", v2(0x20, 0x11, 12, tcp4), "own"},
	{"v2, local of any kind", v2(0x20, 0xff, 3, "abc"), "own"},
	{"v2, unspecified", v2(0x21, 0, 0, ""), "own"},
	{"v2, unspecified with bytes", v2(0x21, 0, 5, "abcde"), "own"},
	{"v2, IPv4 of no protocol", v2(0x21, 0x10, 12, tcp4), "own"},
	{"v2, UDP", v2(0x21, 0x12, 12, tcp4), "own"},
	{"v2, unix", v2(0x21, 0x31, 216, strings.Repeat("/", 216)), "own"},
	{"v2, IPv4, too short", v2(0x21, 0x11, 11, tcp4), errBadProxyHeader.Error()},
	{"v2, IPv6 with room for IPv4", v2(0x21, 0x21, 12, tcp6), errBadProxyHeader.Error()},
	{"v2, another version", v2(0x11, 0x11, 12, tcp4), errBadProxyHeader.Error()},
	{"v2, another command", v2(0x22, 0x11, 12, tcp4), errBadProxyHeader.Error()},
	{"v2, another family", v2(0x21, 0x41, 12, tcp4), errBadProxyHeader.Error()},
	{"v2, another protocol", v2(0x21, 0x13, 12, tcp4), errBadProxyHeader.Error()},
	{"v2, a signature that ends otherwise", "\r\n\r\n\x00\r\nQUIT\r", errNoProxyHeader.Error()},

	{"no header", "GET / HTTP/1.1\r\n\r\n", errNoProxyHeader.Error()},
	{"two empty lines", "\r\n\r\n\r\n", errNoProxyHeader.Error()},
	{"TLS", "\x16\x03\x01", errNoProxyHeader.Error()},
}

// proxyOutcome reads a header in pieces of these sizes and says what came of it
// and how many bytes it took; "more" when it is not whole.
func proxyOutcome(text string, pieces func() int) (string, int) {
	var h proxyHeader
	for at := 0; at < len(text); {
		n := min(max(pieces(), 1), len(text)-at)
		rest, whole, err := h.read([]byte(text[at : at+n]))
		at += n
		switch {
		case err != nil:
			return err.Error(), 0
		case whole && h.source.IsValid():
			return fmt.Sprint(h.source, " ", h.destination), at - len(rest)
		case whole:
			return "own", at - len(rest)
		case len(rest) > 0:
			return "took too little", at - len(rest)
		}
	}
	return "more", len(text)
}

func all(n int) func() int { return func() int { return n } }

func TestProxyHeaders(t *testing.T) {
	for _, c := range proxyHeaders {
		t.Run(c.name, func(t *testing.T) {
			size := len(c.bytes)
			for _, piece := range []int{1 << 20, 1, 2, 3, 5, 15, 16, 17, 100} {
				got, n := proxyOutcome(c.bytes+"GET / HTTP", all(piece))
				if got != c.want {
					t.Fatalf("in pieces of %d: got %q, want %q", piece, got, c.want)
				}
				if n != size && n != 0 {
					t.Errorf("in pieces of %d: took %d bytes, want %d", piece, n, size)
				}
			}
			if c.want == errBadProxyHeader.Error() || c.want == errNoProxyHeader.Error() {
				return
			}
			for n := range size { // cut off anywhere it is neither whole nor wrong
				if got, _ := proxyOutcome(c.bytes[:n], all(size)); got != "more" {
					t.Fatalf("%d of %d bytes: got %q", n, size, got)
				}
			}
		})
	}
}

func TestProxyHeadersThatWeWriteAreReadAlike(t *testing.T) {
	a := netip.MustParseAddrPort
	for _, c := range []struct {
		source, destination netip.AddrPort
		want                string
	}{
		{a("192.0.2.1:12345"), a("198.51.100.2:443"), "192.0.2.1:12345 198.51.100.2:443"},
		{a("[::ffff:192.0.2.1]:1"), a("198.51.100.2:2"), "192.0.2.1:1 198.51.100.2:2"},
		{a("[2001:db8::1]:1"), a("[2001:db8::2]:2"), "[2001:db8::1]:1 [2001:db8::2]:2"},
		{a("192.0.2.1:1"), a("[2001:db8::2]:2"), "192.0.2.1:1 [2001:db8::2]:2"},
		{netip.AddrPort{}, a("192.0.2.1:1"), "own"},
		{netip.AddrPort{}, netip.AddrPort{}, "own"},
	} {
		b := appendProxyHeader([]byte("x"), c.source, c.destination)[1:]
		if got, n := proxyOutcome(string(b), all(1)); got != c.want || n != len(b) {
			t.Errorf("%v to %v: got %q of %d bytes, want %q of %d", c.source, c.destination, got, n, c.want, len(b))
		}
	}
	if want := v2(0x21, 0x11, 12, tcp4); !bytes.Equal(appendProxyHeader(nil, a("192.0.2.1:12345"), a("198.51.100.2:443")), []byte(want)) {
		t.Error("the bytes differ from the specification's")
	}
}

// FuzzProxyHeader: the same outcome in whatever pieces the bytes come, no byte
// taken that is not the header's, and what is read is written as it was.
func FuzzProxyHeader(f *testing.F) {
	for _, c := range proxyHeaders {
		f.Add([]byte(c.bytes+"GET"), []byte{1})
		f.Add([]byte(c.bytes), []byte{3, 16, 1})
	}
	f.Fuzz(func(t *testing.T, text, cuts []byte) {
		want, n := proxyOutcome(string(text), all(len(text)))
		i := 0
		got, m := proxyOutcome(string(text), func() int {
			i++
			if len(cuts) == 0 {
				return 1
			}
			return int(cuts[i%len(cuts)])
		})
		if got != want || m != n {
			t.Fatalf("in pieces %q of %d bytes, whole %q of %d", got, m, want, n)
		}
		if want == "more" || n == 0 {
			return
		}
		if n > proxyHead2+65535 {
			t.Fatalf("took %d bytes", n)
		}
		if again, _ := proxyOutcome(string(text[:n-1]), all(n)); again != "more" {
			t.Fatalf("one byte less: %q", again)
		}
		var h proxyHeader
		if _, _, err := h.read(text); errors.Is(err, errBadProxyHeader) || !h.source.IsValid() {
			return
		}
		back, _ := proxyOutcome(string(appendProxyHeader(nil, h.source, h.destination)), all(1))
		if back != want {
			t.Fatalf("written and read again: %q, was %q", back, want)
		}
	})
}
