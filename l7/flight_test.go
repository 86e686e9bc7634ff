package l7

import (
	"strings"
	"testing"
	"time"
)

func TestTheRecorderKeepsTheLastRequestsAndThoseUnderWay(t *testing.T) {
	never := make(chan bool)
	o := startOrigin(t, func(c *peer) {
		for {
			switch line := c.request(); {
			case line == "":
				return
			case strings.Contains(line, "/never"):
				close(never)
				c.rest()
				return
			}
			c.say(ok)
		}
	})
	memory := make([]byte, FlightSize(1))
	l := startLab(t, labOptions{flight: memory}, pool(o.addr))
	c := l.dial()
	for range flightRecords + 10 {
		c.get("/done?secret").want(t, "200", "ok")
	}
	l.dial().say("GET /never/" + strings.Repeat("x", 300) + " HTTP/1.1\r\nHost: a\r\n\r\n")
	select {
	case <-never:
	case <-time.After(patience):
		t.Fatal("the last request did not reach its backend")
	}
	done := make(chan bool)
	l.proxy.threads[0].loop.Post(func() { close(done) })
	<-done
	got := ReadFlight(append([]byte(nil), memory...))
	if len(got.Requests) != flightRecords || got.Begun != flightRecords+11 || got.Ended != got.Begun-1 || got.Failed != 0 {
		t.Fatalf("%d requests are kept of %d, %d ended, %d failed", len(got.Requests), got.Begun, got.Ended, got.Failed)
	}
	last, before := got.Requests[0], got.Requests[1]
	if !last.UnderWay || !strings.HasPrefix(last.Path, "/never/x") || last.Method != "GET" || last.Listener != "web" || !strings.HasPrefix(last.Route, "route:") {
		t.Errorf("the one under way is %+v", last)
	}
	if before.UnderWay || before.Status != 200 || before.Path != "/done" || before.Took <= 0 {
		t.Errorf("one that ended is %+v", before)
	}
}

func TestWhatIsNoRecorderHoldsNothing(t *testing.T) {
	whole := make([]byte, FlightSize(2))
	newFlights(whole, 2)
	for n := range 200 {
		ReadFlight(whole[:n]) // must not panic
		broken := append([]byte(nil), whole...)
		for i := range 32 {
			broken[(n*37+i*101)%len(broken)] ^= byte(n + i)
		}
		ReadFlight(broken)
	}
	if f := ReadFlight(make([]byte, 4096)); f.Begun != 0 || f.Requests == nil || len(f.Requests) != 0 {
		t.Errorf("got %+v", f)
	}
}
