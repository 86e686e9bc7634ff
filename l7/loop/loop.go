// Package loop is the reactor: one epoll loop per thread, with connections, a
// timer wheel, buffers and cross-thread wake-ups. Start at Loop.Run.
//
// A Loop and all that belongs to it may be used only from its own thread, but
// for the methods that say otherwise.
package loop

import "errors"

// ErrClosed is what a closed connection says.
var ErrClosed = errors.New("connection is closed")

// Loop is one thread's reactor.
type Loop struct{}
