package l7

import (
	"errors"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
)

// requestError is what the codec's refusal of a request means to the client.
func requestError(err error) *Error {
	e := &Error{Status: 400, Source: FromClient, Reason: lb.BadRequest, Err: err}
	var codec *h1.Error
	if !errors.As(err, &codec) {
		return e
	}
	e.Status = codec.Kind.Status()
	switch codec.Kind {
	case h1.BadFraming, h1.Truncated:
		e.Reason = lb.BadFraming
	case h1.TooLarge:
		e.Reason = lb.HeadTooLarge
	case h1.URITooLong:
		e.Reason = lb.URITooLong
	case h1.MethodRefused:
		e.Reason = lb.MethodRefused
	case h1.VersionRefused:
		e.Reason = lb.VersionRefused
	case h1.NotImplemented:
		e.Reason = lb.NotImplemented
	case h1.ExpectRefused:
		e.Reason = lb.ExpectRefused
	}
	return e
}

// responseError is a backend that does not speak HTTP.
func responseError(err error) *Error {
	return &Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamProtocol, Sent: true, Err: err}
}

func version(minor int) Version {
	if minor == 0 {
		return HTTP10
	}
	return HTTP11
}

// isForeign reports whether a request was refused for it is of another protocol.
func isForeign(e *Error) bool {
	codec, ok := e.Err.(*h1.Error)
	return ok && codec.Kind == h1.NotHTTP
}
