package l7

import (
	"net/netip"
	"strings"
)

// appendForwarded composes a Forwarded field (RFC 7239): what a trusted proxy
// says, or else what its X-Forwarded-For amounts to, and then our own element.
func appendForwarded(b []byte, f *forwarded, in *Request) []byte {
	if f.list != "" {
		b = append(append(b, f.list...), ", "...)
	} else if f.client != "" {
		for item := range strings.SplitSeq(f.client, ",") {
			addr, _ := forwardedAddr(strings.TrimSpace(item))
			b = append(appendNode(b, addr), ", "...)
		}
	}
	b = append(append(appendNode(b, in.Client.Addr()), ";proto="...), in.Scheme...)
	if in.Host == "" {
		return b
	}
	b = append(b, `;host="`...) // CheckHost lets neither quotes nor backslashes in
	return append(append(b, in.Host...), '"')
}

// appendNode appends who it was for; an IPv6 address is quoted.
func appendNode(b []byte, a netip.Addr) []byte {
	switch a = a.Unmap().WithZone(""); {
	case !a.IsValid():
		return append(b, "for=unknown"...)
	case a.Is4():
		return a.AppendTo(append(b, "for="...))
	}
	return append(a.AppendTo(append(b, `for="[`...)), `]"`...)
}

// viaTexts are the Via fields of a configuration (RFC 9110 section 7.6.3) by the
// version in which the message came; nil: none.
type viaTexts map[Version]string

func newViaTexts(name string) viaTexts {
	if name == "" {
		return nil
	}
	return viaTexts{HTTP10: "1.0 " + name, HTTP11: "1.1 " + name, HTTP20: "2.0 " + name}
}

func (v viaTexts) of(received Version) string { return v[received] }
