package l7

import (
	"net/netip"
	"strings"
	"unsafe"
)

// buildUpstream makes the backend's request of the client's: the fields that say
// where it came from are rebuilt, for a client may write what it likes in them.
func (x *exchange) buildUpstream() {
	in, out := x.session.Request, &x.request
	header := out.Header[:0]
	*out = *in
	if x.copyOf != nil { // it was made of what a backend got
		out.Header = append(header, in.Header...)
		return
	}
	if x.hasRequestBody() && !(x.reqEnd && in.Length == 0) {
		out.Length = -1
	}
	var f forwarded
	for i := range in.Header {
		if name := in.Header[i].Name; !forwardedName(name) {
			header = append(header, in.Header[i])
		} else {
			f.collect(&in.Header[i])
		}
	}
	if !x.view.trusts(in.Client.Addr()) {
		f = forwarded{}
	}
	header = x.addForwarded(header, in, &f)
	if x.view.via != nil {
		header = append(header, Field{Name: "Via", Value: x.view.via.of(in.Version)})
	}
	out.Header = header
}

// forwarded is what a trusted proxy in front of us said.
type forwarded struct{ client, proto, host, list string }

// forwardedName reports whether this is one of the fields that we own.
func forwardedName(name string) bool {
	switch len(name) {
	case 9:
		return equalFold(name, "forwarded")
	case 15, 16, 17:
		return lowerByte(name[0]) == 'x' && (equalFold(name, "x-forwarded-for") ||
			equalFold(name, "x-forwarded-host") || equalFold(name, "x-forwarded-proto"))
	}
	return false
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func (f *forwarded) collect(field *Field) {
	switch len(field.Name) {
	case 9:
		f.list = joined(f.list, field.Value)
	case 15:
		f.client = joined(f.client, field.Value)
	case 16:
		f.host = field.Value
	case 17:
		f.proto = field.Value
	}
}

// joined is a list of which so far one part was seen.
func joined(list, more string) string {
	if list == "" {
		return more
	}
	return list + ", " + more
}

// addForwarded appends our fields; x.text holds what has to be composed.
func (x *exchange) addForwarded(h Header, in *Request, f *forwarded) Header {
	x.text = x.text[:0]
	if f.client != "" {
		x.text = append(append(x.text, f.client...), ", "...)
	}
	if in.Client.IsValid() {
		x.text = in.Client.Addr().AppendTo(x.text)
	} else {
		x.text = append(x.text, "unknown"...)
	}
	proto, host := f.proto, f.host
	if proto == "" {
		proto = in.Scheme
	}
	if host == "" {
		host = in.Host
	}
	h = append(h, Field{Name: "X-Forwarded-For", Value: unsafe.String(unsafe.SliceData(x.text), len(x.text))},
		Field{Name: "X-Forwarded-Proto", Value: proto})
	if host != "" {
		h = append(h, Field{Name: "X-Forwarded-Host", Value: host})
	}
	if x.view.config.Forward.Forwarded {
		from := len(x.text)
		x.text = appendForwarded(x.text, f, in)
		h = append(h, Field{Name: "Forwarded", Value: unsafe.String(unsafe.SliceData(x.text[from:]), len(x.text)-from)})
	}
	return h
}

// farthest is the last address in X-Forwarded-For, seen from us, that a trusted
// proxy wrote: the first one that is not trusted itself. What is no address ends
// the way.
func (v *view) farthest(addr netip.Addr, h Header) netip.Addr {
	for i := len(h) - 1; i >= 0; i-- {
		if !equalFold(h[i].Name, "x-forwarded-for") {
			continue
		}
		for list := h[i].Value; list != ""; {
			item := list
			if comma := strings.LastIndexByte(list, ','); comma >= 0 {
				list, item = list[:comma], list[comma+1:]
			} else {
				list = ""
			}
			next, ok := forwardedAddr(strings.TrimSpace(item))
			if !ok {
				return addr
			}
			if addr = next; !v.trusts(addr) {
				return addr
			}
		}
	}
	return addr
}

// forwardedAddr reads an address as proxies write them: some add the port.
func forwardedAddr(s string) (netip.Addr, bool) {
	if strings.HasSuffix(s, "]") && s[0] == '[' {
		s = s[1 : len(s)-1]
	}
	if strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") {
		p, err := netip.ParseAddrPort(s)
		return p.Addr().Unmap(), err == nil
	}
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil && a.Zone() == ""
}

// trusts reports whether what addr says of other clients is believed.
func (v *view) trusts(addr netip.Addr) bool {
	for _, p := range v.config.Trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
