package filter

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// grpcWeb lets browsers call gRPC services, whose trailers they cannot read: it
// turns gRPC-Web (gRPC's PROTOCOL-WEB.md), binary or in base64, over HTTP/1 or
// HTTP/2, into gRPC and back. The pool's protocol must be grpc. Everything else
// passes as it is.
//
//	filters: [ cors: { origins: [...], headers: ["*"], expose: [grpc-status, grpc-message] }, grpc_web ]
func grpcWeb(n lb.Node) (l7.Filter, error) {
	var c struct{}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	g := new(webBridge)
	return l7.Filter{Name: "grpc_web", Request: g.request, RequestBody: g.requestBody, Upstream: g.upstream,
		Response: g.response, ResponseBody: g.responseBody, Fail: g.fail}, nil
}

// webBridge is the filter of one route.
type webBridge struct{ calls l7.Local[webCall] }

// webCall is one call.
type webCall struct {
	web     bool
	textIn  bool // the request's body is base64
	textOut bool // the response's is to be
	subtype string

	digits [3]byte // of base64, from the end of the last piece
	n      int
}

const (
	webType     = "application/grpc-web"
	webTextType = "application/grpc-web-text"
	grpcType    = "application/grpc"
	trailerFlag = 0x80 // of the frame that carries the trailers
)

// subtypeOf is what follows a type: +proto, parameters, nothing.
func subtypeOf(contentType, of string) (string, bool) {
	rest, ok := strings.CutPrefix(contentType, of)
	return rest, ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

func (g *webBridge) request(s *l7.Session) (*l7.Response, error) {
	c, h := g.calls.Of(s), s.Request.Header
	contentType := h.Get("content-type")
	if c.subtype, c.textIn = subtypeOf(contentType, webTextType); c.textIn {
		c.web = true
	} else {
		c.subtype, c.web = subtypeOf(contentType, webType)
	}
	c.web = c.web && s.Request.Method == "POST"
	c.textOut = c.textIn
	if accept := h.Get("accept"); strings.Contains(accept, webType) {
		c.textOut = strings.Contains(accept, webTextType)
	}
	if !c.web || !c.textIn {
		s.PassBody() // the messages are framed as gRPC's
	}
	return nil, nil
}

func (g *webBridge) upstream(s *l7.Session, r *l7.Request) error {
	if c := g.calls.Of(s); c.web {
		r.Header.Set("content-type", grpcType+c.subtype)
		for _, name := range []string{"accept", "x-grpc-web"} {
			r.Header.Del(name)
		}
	}
	return nil
}

var errBase64 = errors.New("the body is not base64")

// requestBody decodes what may be several texts in base64, each with its padding.
func (g *webBridge) requestBody(s *l7.Session, p []byte, end bool) ([]byte, error) {
	c := g.calls.Of(s)
	p = append(c.digits[:c.n:c.n], p...)
	whole := len(p) / 4 * 4
	c.n = copy(c.digits[:], p[whole:])
	if end && c.n > 0 {
		return nil, badBase64(errBase64)
	}
	out := make([]byte, 0, whole/4*3)
	for p = p[:whole]; len(p) > 0; {
		n := len(p)
		if pad := bytes.IndexByte(p, '='); pad >= 0 {
			n = pad/4*4 + 4 // what follows is the next text
		}
		var err error
		if out, err = base64.StdEncoding.AppendDecode(out, p[:n]); err != nil {
			return nil, badBase64(err)
		}
		p = p[n:]
	}
	return out, nil
}

func badBase64(err error) error {
	return &l7.Error{Status: 400, Source: l7.FromClient, Reason: lb.BadRequest, Err: err}
}

func (g *webBridge) response(s *l7.Session, r *l7.Response) error {
	c := g.calls.Of(s)
	subtype, ok := subtypeOf(r.Header.Get("content-type"), grpcType)
	if !c.web || !ok {
		s.PassBody()
		return nil
	}
	r.Header.Set("content-type", c.answerType()+subtype)
	return nil
}

func (c *webCall) answerType() string {
	if c.textOut {
		return webTextType
	}
	return webType
}

// responseBody puts the trailers behind the messages, and all in base64 if that
// is wanted: piece by piece, for a stream must not wait for digits.
func (g *webBridge) responseBody(s *l7.Session, p []byte, end bool) ([]byte, error) {
	c := g.calls.Of(s)
	if end && len(s.Trailer) > 0 {
		p = appendTrailers(append([]byte(nil), p...), s.Trailer)
		s.Trailer = nil
	}
	if c.textOut {
		p = base64.StdEncoding.AppendEncode(nil, p)
	}
	return p, nil
}

func appendTrailers(b []byte, trailer l7.Header) []byte {
	at := len(b)
	b = append(b, trailerFlag, 0, 0, 0, 0)
	for _, f := range trailer {
		b = append(append(append(append(b, strings.ToLower(f.Name)...), ": "...), f.Value...), "\r\n"...)
	}
	binary.BigEndian.PutUint32(b[at+1:], uint32(len(b)-at-5))
	return b
}

// fail answers a call in its own words: with a status in the head.
func (g *webBridge) fail(s *l7.Session, err error) *l7.Response {
	c := g.calls.Of(s)
	var e *l7.Error
	if !c.web || !errors.As(err, &e) {
		return nil
	}
	return &l7.Response{Status: 200, Header: append(l7.Header{{Name: "content-type", Value: c.answerType() + c.subtype},
		{Name: "grpc-status", Value: strconv.Itoa(e.GRPCStatus())}, {Name: "grpc-message", Value: string(e.Reason)}}, e.Header...)}
}
