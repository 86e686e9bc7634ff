package l7

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/cirque-lb/lb"
)

func TestGRPCTimeoutsAreRead(t *testing.T) {
	for v, want := range map[string]time.Duration{
		"1S": time.Second, "100m": 100 * time.Millisecond, "5u": 5 * time.Microsecond, "7n": 7, "2M": 2 * time.Minute,
		"3H": 3 * time.Hour, "99999999H": 365 * 24 * time.Hour,
		"": -1, "S": -1, "1": -1, "1s": -1, "-1S": -1, "+1S": -1, "123456789S": -1, "1.5S": -1,
	} {
		got, ok := parseGRPCTimeout(v)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %v, want %v", v, got, want)
		}
	}
}

func TestOnlyGRPCIsAnsweredInItsWords(t *testing.T) {
	for v, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;charset=x": true,
		"application/grpc-web": false, "application/json": false, "": false,
	} {
		req := &Request{}
		if v != "" {
			req.Header.Add("Content-Type", v)
		}
		if isGRPC(req) != want {
			t.Errorf("%q: got %v", v, !want)
		}
	}
}

func TestGRPCStatusOfErrors(t *testing.T) {
	for _, x := range []struct {
		e    Error
		want int
	}{
		{Error{Status: 400}, 13}, {Error{Status: 401}, 16}, {Error{Status: 403}, 7}, {Error{Status: 404}, 12},
		{Error{Status: 429}, 14}, {Error{Status: 502}, 14}, {Error{Status: 503}, 14}, {Error{Status: 504}, 14},
		{Error{Status: 431}, 2}, {Error{Status: 500}, 2},
		{Error{Status: 504, Reason: lb.UpstreamTimeout}, 4}, {Error{Status: 504, Reason: lb.ConnectTimeout}, 14},
	} {
		if got := grpcStatus(&x.e); got != x.want {
			t.Errorf("%d %s: got %d, want %d", x.e.Status, x.e.Reason, got, x.want)
		}
	}
}

// call makes a unary request by raw frames.
func (r *raw) call(id uint32, more ...string) {
	r.head(id, false, append(request("POST", "/p.S/M", "content-type", "application/grpc", "te", "trailers"), more...)...)
	r.fr.WriteData(id, true, []byte("\x00\x00\x00\x00\x02hi"))
}

func TestGRPCCallsComeThrough(t *testing.T) {
	seen := make(chan string, 1)
	o := startRawOrigin(t, func(r *raw, _ int) {
		for {
			f, err := r.fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				seen <- f.PseudoValue("path") + " " + f.PseudoValue("scheme")
				for _, x := range f.RegularFields() {
					if x.Name == "te" && x.Value != "trailers" {
						t.Errorf("te: %s", x.Value)
					}
				}
			case *http2.DataFrame:
				if f.StreamEnded() {
					r.head(f.StreamID, false, ":status", "200", "content-type", "application/grpc")
					r.fr.WriteData(f.StreamID, false, f.Data())
					r.head(f.StreamID, true, "grpc-status", "0")
				}
			}
		}
	})
	l := startLab(t, labOptions{}, poolH2("grpc", o.addr))
	r := l.raw()
	r.call(1)
	if got := <-seen; got != "/p.S/M http" {
		t.Error(got)
	}
	r.want("HEADERS 1 :status=200 content-type=application/grpc", `DATA 1 "\x00\x00\x00\x00\x02hi"`, "HEADERS 1 grpc-status=0 end")
}

func TestGRPCErrorsOfTheProxyAreTrailersOnly(t *testing.T) {
	dead := startOrigin(t, func(*peer) {})
	for name, x := range map[string]struct {
		document string
		want     string
	}{
		"no route":   {strings.Replace(poolH2("grpc", dead.addr), "pool: app", "pool: app, match: { path: /other/ }", 1), "grpc-status=12 grpc-message=no_route"},
		"no backend": {poolH2("grpc", "127.0.0.1:1"), "grpc-status=14 grpc-message=connect_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, labOptions{}, x.document)
			r := l.raw()
			r.call(1)
			r.want("HEADERS 1 :status=200 content-type=application/grpc " + x.want + " content-length=0 end")
		})
	}
}

func TestGRPCTimeoutEndsTheCall(t *testing.T) {
	reset := make(chan bool, 1)
	o := startRawOrigin(t, func(r *raw, _ int) {
		for r.awaitRequest() != 0 {
		}
		reset <- r.resets.Load() == 1
	})
	l := startLab(t, labOptions{}, poolH2("grpc", o.addr))
	r := l.raw()
	r.call(1, "grpc-timeout", "50m")
	r.want("HEADERS 1 :status=200 content-type=application/grpc grpc-status=4 grpc-message=upstream_timeout content-length=0 end")
	l.stop()
	if !<-reset {
		t.Error("the backend was not told")
	}
}

func TestAGRPCStreamMayRestLongerThanABody(t *testing.T) {
	release := make(chan bool)
	o := startOrigin(t, func(c *peer) {
		grpc := field(c.request(), "content-type") != ""
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
		if <-release; grpc {
			c.say("ok")
		}
	})
	l := startLab(t, labOptions{}, routed("timeout: { idle: 50ms }", o.addr))
	r := l.raw()
	r.head(1, true, request("POST", "/", "content-type", "application/grpc")...)
	r.want("HEADERS 1 :status=200 content-length=2")
	r.head(3, true, request("GET", "/")...)
	r.want("HEADERS 3 :status=200 content-length=2", "RST 3 INTERNAL_ERROR")
	close(release)
	r.want(`DATA 1 "ok" end`)
}
