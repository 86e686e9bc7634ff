package h2

import "hash/maphash"

// known is what the encoder knows of a field name.
type known struct {
	name   string // lower case
	index  int    // in the static table, 0 without
	values []staticValue
	flags  knownFlags
	hash   uint32
}

type staticValue struct {
	value string
	index int
}

type knownFlags uint8

const (
	never  knownFlags = 1 << iota // a secret: never indexed, by nobody (RFC 7541, section 7.1.3)
	unique                        // values do not repeat: not worth an entry
	public                        // says nothing about one client: may be indexed on a shared connection
)

const staticLen = 61

// static returns the index of name and value in the static table, 0 without.
func (k *known) static(value string) int {
	for i := range k.values {
		if k.values[i].value == value {
			return k.values[i].index
		}
	}
	return 0
}

// staticTable is RFC 7541, appendix A.
var staticTable = [staticLen]struct {
	name, value string
	flags       knownFlags
}{
	{":authority", "", public}, {":method", "GET", public}, {":method", "POST", public}, {":path", "/", public},
	{":path", "/index.html", public}, {":scheme", "http", public}, {":scheme", "https", public}, {":status", "200", 0},
	{":status", "204", 0}, {":status", "206", 0}, {":status", "304", 0}, {":status", "400", 0},
	{":status", "404", 0}, {":status", "500", 0}, {"accept-charset", "", public}, {"accept-encoding", "gzip, deflate", public},
	{"accept-language", "", public}, {"accept-ranges", "", 0}, {"accept", "", public}, {"access-control-allow-origin", "", 0},
	{"age", "", unique}, {"allow", "", 0}, {"authorization", "", never}, {"cache-control", "", public},
	{"content-disposition", "", unique}, {"content-encoding", "", public}, {"content-language", "", 0}, {"content-length", "", 0},
	{"content-location", "", unique}, {"content-range", "", unique}, {"content-type", "", public}, {"cookie", "", never},
	{"date", "", 0}, {"etag", "", 0}, {"expect", "", 0}, {"expires", "", unique},
	{"from", "", 0}, {"host", "", public}, {"if-match", "", unique}, {"if-modified-since", "", unique},
	{"if-none-match", "", unique}, {"if-range", "", unique}, {"if-unmodified-since", "", unique}, {"last-modified", "", 0},
	{"link", "", 0}, {"location", "", 0}, {"max-forwards", "", 0}, {"proxy-authenticate", "", 0},
	{"proxy-authorization", "", never}, {"range", "", unique}, {"referer", "", unique}, {"refresh", "", 0},
	{"retry-after", "", 0}, {"server", "", 0}, {"set-cookie", "", never}, {"strict-transport-security", "", 0},
	{"transfer-encoding", "", 0}, {"user-agent", "", public}, {"vary", "", 0}, {"via", "", public}, {"www-authenticate", "", 0},
}

// otherNames are common and not in the static table.
var otherNames = map[string]knownFlags{
	"te": public, "grpc-accept-encoding": public, "grpc-encoding": public, "grpc-timeout": unique, "grpc-status": 0,
	"grpc-message": unique, "grpc-status-details-bin": unique, "x-forwarded-proto": public, "x-forwarded-host": public,
	"x-forwarded-for": unique, "forwarded": unique, "x-request-id": unique, "traceparent": unique, "tracestate": unique,
	"x-real-ip": unique, "origin": public, "pragma": public, "dnt": public, "upgrade-insecure-requests": public,
	"sec-fetch-dest": public, "sec-fetch-mode": public, "sec-fetch-site": public, "sec-fetch-user": public,
	"sec-ch-ua": public, "sec-ch-ua-mobile": public, "sec-ch-ua-platform": public, "priority": public, "trailer": 0,
	"x-content-type-options": 0, "x-frame-options": 0, "x-xss-protection": 0, "content-security-policy": 0,
	"access-control-allow-methods": 0, "access-control-allow-headers": 0, "access-control-allow-credentials": 0,
	"access-control-expose-headers": 0, "access-control-max-age": 0, "alt-svc": 0, "x-powered-by": 0, "x-cache": 0,
	"x-api-key": never, "x-auth-token": never, "x-csrf-token": never, ":protocol": public,
}

const knownSlots = 512

// knownNames is a hash table with linear probing: one is read per field sent.
var knownNames = func() (t [knownSlots]*known) {
	put := func(name string) *known {
		i := slot(name)
		for t[i] != nil && t[i].name != name {
			i = (i + 1) % knownSlots
		}
		if t[i] == nil {
			t[i] = &known{name: name, hash: uint32(maphash.String(seed, name)) | 1}
		}
		return t[i]
	}
	for i, e := range staticTable {
		k := put(e.name)
		if k.index == 0 {
			k.index, k.flags = i+1, e.flags
		}
		if e.value != "" {
			k.values = append(k.values, staticValue{e.value, i + 1})
		}
	}
	for name, flags := range otherNames {
		put(name).flags = flags
	}
	return t
}()

// slot is where the search for a name starts, whatever its case.
func slot(name string) uint {
	n := len(name)
	if n == 0 {
		return 0
	}
	a, b, c := uint(name[0]|0x20), uint(name[n/2]|0x20), uint(name[n-1]|0x20)
	return (uint(n)*67 + a*7 + b*31 + c*151) % knownSlots
}

// lookup finds a name in any case, nil when it is not known.
func lookup(name string) *known {
	for i := slot(name); ; i = (i + 1) % knownSlots {
		k := knownNames[i]
		if k == nil || k.name == name || equalFold(k.name, name) {
			return k
		}
	}
}

// equalFold compares with a lower-case ASCII name.
func equalFold(lower, s string) bool {
	if len(lower) != len(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if classes[c]&isUpper != 0 {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
