package l7

import (
	"fmt"
	"time"

	"github.com/cirque-lb/lb"
)

// Source says whose fault an error is.
type Source uint8

// The sources.
const (
	FromProxy Source = iota
	FromClient
	FromUpstream
)

func (s Source) String() string {
	return [...]string{"proxy", "client", "upstream"}[min(s, FromUpstream)]
}

// Error is why a request did not get its backend's response. One place turns
// it into a response and a log line.
type Error struct {
	Status int // what the client is answered, unless a response has begun
	Source Source
	Reason lb.Reason
	Sent   bool // a byte of the request may have reached the backend
	Err    error
	// RetryAfter is what a 429 or 503 tells the client to wait; 0: a second.
	RetryAfter time.Duration
	// Header is what else the client's answer has: WWW-Authenticate, say.
	Header Header

	kind failure // of an attempt
}

// failure is how an attempt failed, as far as trying again depends on it.
type failure uint8

const (
	failedOther   failure = iota
	failedConnect         // there was no connection
	failedSilent          // the connection broke before a byte of a response
	failedRefused         // the backend says that it did nothing with the request
	failedLate            // no response in time, or the request was not taken
)

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %s", e.Source, e.Reason)
	}
	return fmt.Sprintf("%s: %s: %v", e.Source, e.Reason, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
