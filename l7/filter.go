package l7

import "github.com/cirque-lb/lb"

// Filter is a programmer's hook into the life of a request: a struct of funcs,
// one for each phase. A nil phase costs nothing. The way in goes from the
// route's first filter to its last, the way out from the last to the first,
// starting before the filter that turned around.
//
// Phases run on the loop and must not block, unless Blocking is set. One Filter
// serves many requests at once, on several threads; what belongs to one request
// is kept in a Local.
type Filter struct {
	Name     string
	Blocking bool // phases may block: they run off the loop

	// Inline is for a Blocking filter that seldom blocks: it reports, on the
	// loop, that the Request phase will not block this time and may run there.
	Inline func(*Session) bool

	Request      func(*Session) (*Response, error)            // once, first to last; a response ends the way in
	RequestBody  func(*Session, []byte, bool) ([]byte, error) // per chunk; the bool marks the end
	Pick         func(*Session) (*Backend, error)             // per attempt; else the pool's balancer
	Upstream     func(*Session, *Request) error               // per attempt, after hop-by-hop removal; the last edit
	Retry        func(*Session, error) bool                   // asked only when a retry is possible
	Response     func(*Session, *Response) error              // once, last to first
	ResponseBody func(*Session, []byte, bool) ([]byte, error) // per chunk, last to first
	Fail         func(*Session, error) *Response              // no response: last to first, first wins
	Log          func(*Session, error)                        // after the last byte or the error

	times *phaseTimes
}

// Builder makes a filter of its strictly read configuration.
type Builder func(lb.Node) (Filter, error)

// Check returns what lb.Options wants: for each filter, what says whether its
// settings are right.
func Check(filters map[string]Builder) map[string]func(lb.Node) error {
	checks := map[string]func(lb.Node) error{}
	for name, build := range filters {
		checks[name] = func(n lb.Node) error {
			_, err := build(n)
			return err
		}
	}
	return checks
}
