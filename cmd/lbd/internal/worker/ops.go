package worker

import (
	"net/netip"

	"github.com/cirque-lb/lb"
)

// What a supervisor asks of a worker. Every op may be repeated.
const (
	opHello    = "hello"    // who are you                      helloRequest -> helloReply
	opListen   = "listen"   // hold these listening sockets     []socketName + fds
	opUnlisten = "unlisten" // let go of these                  []socketName
	opHeld     = "held"     // give them back                   heldRequest -> []socketName + fds
	opPrepare  = "prepare"  // build this configuration         document + fd of its files
	opCommit   = "commit"   // switch it in                     commitRequest
	opAbort    = "abort"    // forget what was built
	opDocument = "document" // what do you serve                -> document + fd of its files
	opAccept   = "accept"   // accept on these slots, no others []grant
	opState    = "state"    // health and overlay               lb.State
	opPing     = "ping"     //                                  -> pong
	opStats    = "stats"    //                                  -> lb.Stats
	opRefused  = "refused"  // the last malformed requests     -> []lb.Refusal
	opTickets  = "tickets"  // keys of session tickets         []ticketKey
	opPulse    = "pulse"    // say there that your loops turn   + fd
	opLogs     = "logs"     // write there from now on          logsRequest + fds
	opTake     = "take"     // go on with what comes by this line       + fd
	opGive     = "give"     // hand your connections over by this line  + fd
	opDrain    = "drain"    // finish and exit                  drainRequest
	opBye      = "bye"      // the worker, before it exits      lb.Stats
)

type helloRequest struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"`
}

type helloReply struct {
	Protocol   int    `json:"protocol"`
	Version    string `json:"version"`
	Crew       int    `json:"crew"`
	Index      int    `json:"index"`
	Processes  int    `json:"processes"` // of the whole crew
	Threads    int    `json:"threads"`
	PID        int    `json:"pid"`
	Started    int64  `json:"started"` // Unix time, ms
	Active     bool   `json:"active"`  // it was told to accept once
	Draining   bool   `json:"draining"`
	Generation uint64 `json:"generation"`       // 0: it has no configuration yet
	Held       int    `json:"held"`             // listening sockets
	Access     bool   `json:"access"`           // it writes an access log
	Flight     int    `json:"flight,omitempty"` // the descriptor of its recorder
	Crash      int    `json:"crash,omitempty"`  // the descriptor of its first log, where a crash is written
}

// socketName names one listening socket: the bind as the configuration says
// it, and the slot.
type socketName struct {
	Bind netip.AddrPort `json:"bind"`
	Slot int            `json:"slot"`
}

// heldRequest asks for at most a message's worth of sockets, from the one with
// that number in the worker's order.
type heldRequest struct {
	From int `json:"from"`
}

type commitRequest struct {
	Generation uint64 `json:"generation"`
}

// grant tells a worker to accept on a slot, with one of its threads.
type grant struct {
	Slot   int `json:"slot"`
	Thread int `json:"thread"`
}

type pong struct {
	Beats []int64 `json:"beats"` // ms since each thread's loop last turned
}

// logsRequest comes with the descriptors of stderr and, with Access, of the
// access log.
type logsRequest struct {
	Access bool `json:"access"`
}

type drainRequest struct {
	Milliseconds int64 `json:"ms"` // until what is left is cut
}

// binds lists what a configuration listens on, each address once.
func binds(c *lb.Config) []netip.AddrPort {
	var out []netip.AddrPort
	seen := map[netip.AddrPort]bool{}
	for _, l := range c.Listeners {
		if !seen[l.Bind] {
			seen[l.Bind] = true
			out = append(out, l.Bind)
		}
	}
	return out
}
