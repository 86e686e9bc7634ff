package admin

import "net/http"

// Client talks to a node over its unix socket. Its methods may be called
// concurrently; errors are *Error, or *Unreachable when nobody answers.
type Client struct {
	http *http.Client
	path string
}

// Dial makes a client for the socket at path; nothing is sent yet.
func Dial(path string) *Client { return &Client{path: path} }

// Unreachable is the error when the daemon does not answer.
type Unreachable struct {
	Path string
	Err  error
}

func (u *Unreachable) Error() string { return "reach lbd at " + u.Path + ": " + u.Err.Error() }

// Unwrap gives the cause.
func (u *Unreachable) Unwrap() error { return u.Err }
