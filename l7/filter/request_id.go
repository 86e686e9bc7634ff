package filter

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"unsafe"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// requestID gives each request a name that log lines of all services share:
//
//	request_id: { header: x-request-id, keep: trusted }
//
// The backend gets it, the client finds it in the response, the access log has
// it when the header is the usual one. keep says whose name is kept if a
// request has one already: that of trusted proxies, always, or never. A name of
// over 128 bytes or with other than letters, digits and . _ - + / = : is not.
func requestID(n lb.Node) (l7.Filter, error) {
	var c struct {
		Header string `yaml:"header" default:"x-request-id"`
		Keep   string `yaml:"keep" default:"trusted" one:"trusted|always|never"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	if err := checkName(n.Key("header"), c.Header); err != nil {
		return l7.Filter{}, err
	}
	var ids l7.Local[identity]
	return l7.Filter{
		Name: "request_id",
		Request: func(s *l7.Session) (*l7.Response, error) {
			id := ids.Of(s)
			id.name = s.Request.Header.Get(c.Header)
			if kept := c.Keep == "always" || c.Keep == "trusted" && s.Trusted(); !kept || !soundID(id.name) {
				id.make()
				s.Request.Header.Set(c.Header, id.name)
			}
			return nil, nil
		},
		Response: func(s *l7.Session, r *l7.Response) error {
			r.Header.Set(c.Header, ids.Of(s).name)
			return nil
		},
	}, nil
}

// identity is a request's name and, when it was made here, what it is made of:
// both live as long as the request.
type identity struct {
	name string
	text [32]byte
}

// make draws 128 bits. Their source is a ChaCha8 generator that the system
// seeded, so nobody guesses the next one.
func (id *identity) make() {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], rand.Uint64())
	binary.BigEndian.PutUint64(raw[8:], rand.Uint64())
	hex.Encode(id.text[:], raw[:])
	id.name = unsafe.String(&id.text[0], len(id.text))
}

// soundID: what others write ends up in logs and shells.
func soundID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '-', c == '+', c == '/', c == '=', c == ':':
		default:
			return false
		}
	}
	return true
}
