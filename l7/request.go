package l7

import (
	"net/netip"
	"unsafe"
)

// buildUpstream makes the backend's request of the client's: the fields that say
// where it came from are rebuilt, for a client may write what it likes in them.
func (x *exchange) buildUpstream() {
	in, out := x.session.Request, &x.request
	header := out.Header[:0]
	*out = *in
	if len(x.chain.requestBody) > 0 && !(x.reqEnd && in.Length == 0) {
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
	out.Header = x.addForwarded(header, in, &f)
}

// forwarded is what a trusted proxy in front of us said.
type forwarded struct{ client, proto, host string }

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
	case 15:
		if f.client != "" {
			f.client += ", " + field.Value
			return
		}
		f.client = field.Value
	case 16:
		f.host = field.Value
	case 17:
		f.proto = field.Value
	}
}

// addForwarded appends our three fields; x.text holds what has to be composed.
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
	return h
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
