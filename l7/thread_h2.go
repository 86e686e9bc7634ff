package l7

import "time"

// threadH2 is what a thread keeps for HTTP/2.
type threadH2 struct {
	times    timesH2
	groups   map[*endpoint]*groupH2
	streams  freelist[streamH2, *streamH2]
	requests freelist[requestH2, *requestH2]
	stuck    int // streams of clients that do not take what came for them
}

func newThreadH2() threadH2 {
	return threadH2{times: usualTimesH2, groups: map[*endpoint]*groupH2{}}
}

// timesH2 are those of HTTP/2 connections; tests are less patient.
type timesH2 struct {
	idle    time.Duration // that a client's connection may be without streams
	check   time.Duration // how often a busy connection is looked at
	stall   time.Duration // that a peer may give no window for what waits
	drain   time.Duration // that a client may take to see the first GOAWAY
	unheard time.Duration // of silence, after which a backend is asked by PING; and to answer
}

var usualTimesH2 = timesH2{
	idle:    5 * time.Minute,
	check:   5 * time.Second,
	stall:   30 * time.Second,
	drain:   time.Second,
	unheard: 10 * time.Second,
}
