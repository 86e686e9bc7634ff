package h1

import (
	"encoding/binary"
	"slices"
	"strconv"
	"unsafe"
)

// AppendRequest appends a request head with host as its Host field.
func AppendRequest(dst []byte, method, target, host string, fields []Field, o Out) []byte {
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, target...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = appendText(dst, host)
	dst = append(dst, "\r\n"...)
	dst = appendFields(dst, fields, o.Parsed)
	if o.Framing == Length {
		dst = appendLength(dst, o.Length)
	}
	return appendRest(dst, &o)
}

// AppendResponse appends a response head. An empty reason takes the usual one.
func AppendResponse(dst []byte, status int, reason string, fields []Field, o Out) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	if reason == "" {
		reason = Reason(status)
	}
	dst = appendText(dst, reason)
	dst = append(dst, "\r\n"...)
	dst = appendFields(dst, fields, o.Parsed)
	switch {
	case status < 200 || status == 204: // RFC 9110 section 8.6, RFC 9112 section 6.1
		o.Framing = None
	case o.Framing == Length, o.Framing == None && o.Length >= 0:
		dst = appendLength(dst, o.Length)
	}
	return appendRest(dst, &o)
}

// appendRest writes the rest of what only the codec writes, and the empty line.
func appendRest(dst []byte, o *Out) []byte {
	if o.Framing == Chunked {
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case o.Upgrade != "":
		dst = append(dst, "Connection: upgrade\r\nUpgrade: "...)
		dst = appendText(dst, o.Upgrade)
		dst = append(dst, "\r\n"...)
	case o.Close:
		dst = append(dst, "Connection: close\r\n"...)
	case o.KeepAlive:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

func appendFields(dst []byte, fields []Field, parsed []byte) []byte {
	for i := range fields {
		f := &fields[i]
		if ours(f.Name) || !within(f.Name, parsed) && !clean(f.Name) {
			continue
		}
		from, size := len(dst), len(f.Name)+len(f.Value)+len(": \r\n")
		dst = slices.Grow(dst, size)[:from+size]
		line := dst[from:]
		n := copy(line, f.Name)
		line[n], line[n+1] = ':', ' '
		value := line[n+2 : size-2]
		copy(value, f.Value)
		if !within(f.Value, parsed) {
			blank(value)
		}
		line[size-2], line[size-1] = '\r', '\n'
	}
	return dst
}

// within reports whether v lies in b: a parsed name or value, which was looked
// at then.
func within(v string, b []byte) bool {
	at := uintptr(unsafe.Pointer(unsafe.StringData(v))) - uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return at < uintptr(len(b)) && len(v) <= len(b)-int(at)
}

// blank makes a space of each control character but HTAB (RFC 9110 section 5.5).
func blank(b []byte) {
	for i := textEnd(b, 0); i < len(b); i = textEnd(b, i) {
		b[i] = ' '
	}
}

// ours reports whether only the encoder writes a field of this name.
func ours(name string) bool {
	switch len(name) {
	case 0:
		return true
	case 4:
		return fold(name, "host")
	case 7:
		return fold(name, "upgrade")
	case 10:
		return fold(name, "connection") || fold(name, "keep-alive")
	case 14:
		return fold(name, "content-length")
	case 16:
		return fold(name, "proxy-connection")
	case 17:
		return fold(name, "transfer-encoding")
	}
	return false
}

// clean reports whether a name holds no byte that could end it: names of
// parsed messages never do, but filters may take what they like for a name.
func clean(name string) bool {
	b := unsafe.Slice(unsafe.StringData(name), len(name))
	if len(b) < 8 {
		return cleanBytes(b)
	}
	for i := 0; i < len(b); i += 8 {
		eight := b[min(i, len(b)-8):][:8]
		if suspicious(binary.LittleEndian.Uint64(eight)) && !cleanBytes(eight) {
			return false
		}
	}
	return true
}

// suspicious reports whether one of eight bytes may end a name: one below 0x21
// or a colon borrows, 0x7f carries. Their neighbours may do so falsely.
func suspicious(x uint64) bool {
	const each = 0x0101010101010101
	colon := x ^ ':'*each
	return ((x-0x21*each)|(x+each)|(colon-each))&(0x80*each) != 0
}

func cleanBytes(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == ':' || c == 0x7f {
			return false
		}
	}
	return true
}

// appendText appends a value in which no control character survives but HTAB.
func appendText(dst []byte, v string) []byte {
	from := len(dst)
	dst = append(dst, v...)
	blank(dst[from:])
	return dst
}

// AppendChunk appends p as one chunk; nothing if p is empty, for an empty
// chunk would end the body.
func AppendChunk(dst, p []byte) []byte {
	if len(p) == 0 {
		return dst
	}
	dst = AppendChunkHeader(dst, len(p))
	dst = append(dst, p...)
	return append(dst, ChunkEnd...)
}

// AppendChunkHeader appends the size line of a chunk of n > 0 bytes, which the
// caller sends next, followed by ChunkEnd.
func AppendChunkHeader(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// ChunkEnd follows the data of each chunk.
const ChunkEnd = "\r\n"

// AppendLastChunk ends a chunked body with its trailers.
func AppendLastChunk(dst []byte, trailers []Field) []byte {
	dst = append(dst, "0\r\n"...)
	dst = appendFields(dst, trailers, nil)
	return append(dst, "\r\n"...)
}

// Continue is a whole 100 (Continue) response.
const Continue = "HTTP/1.1 100 Continue\r\n\r\n"

// Reason is the usual reason phrase of a status, or "" (RFC 9110 section 15).
func Reason(status int) string {
	if status >= 0 && status < len(reasons) {
		return reasons[status]
	}
	return ""
}

var reasons = [...]string{
	100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
	200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information",
	204: "No Content", 205: "Reset Content", 206: "Partial Content", 207: "Multi-Status",
	208: "Already Reported", 226: "IM Used",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other",
	304: "Not Modified", 305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
	404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
	407: "Proxy Authentication Required", 408: "Request Timeout", 409: "Conflict", 410: "Gone",
	411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large",
	414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable",
	417: "Expectation Failed", 421: "Misdirected Request", 422: "Unprocessable Content",
	423: "Locked", 424: "Failed Dependency", 425: "Too Early", 426: "Upgrade Required",
	428: "Precondition Required", 429: "Too Many Requests",
	431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
	503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
	506: "Variant Also Negotiates", 507: "Insufficient Storage", 508: "Loop Detected",
	510: "Not Extended", 511: "Network Authentication Required",
}
