package l7

import (
	"strings"
	"testing"
)

func TestTheLastMalformedRequestsAreKept(t *testing.T) {
	o := startOrigin(t, answering(ok))
	l := startLab(t, labOptions{}, pool(o.addr))
	say := func(s string) { l.dial().say(s).response() }
	say("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	say("POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic c2VjcmV0\r\nCookie: sid=hush\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n")
	say("POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
	say("GET /long HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n")
	r := l.raw()
	r.head(1, true, request("GET", "/h2", "cookie", "hush")...)
	r.want("HEADERS 1 :status=200 content-length=2", `DATA 1 "ok" end`)
	r.head(3, true, request("GET", "/h2 x", "cookie", "hush")...)
	if head, body := r.next(), r.next(); !strings.Contains(head, ":status=400") {
		t.Errorf("got %s, %s", head, body)
	}
	r.head(5, true, request("GET", "/bad", "connection", "close")...)
	r.want("RST 5 PROTOCOL_ERROR")
	all := l.proxy.Refused()
	var got []string
	for _, x := range all {
		if x.Listener != "web" || !x.Client.IsValid() || x.Time.IsZero() || x.Error == "" || strings.Contains(string(x.Head), "hush") || strings.Contains(string(x.Head), "c2VjcmV0") || len(x.Head) > keptHead {
			t.Errorf("got %+v: %q", x, x.Head)
		}
		line, _, _ := strings.Cut(string(x.Head), "\r\n")
		got = append(got, line+" "+string(x.Reason))
	}
	want := "GET /bad HTTP/2.0 bad_request, GET /h2 x HTTP/2.0 bad_request, GET /long HTTP/1.1 head_too_large, POST /chunks HTTP/1.1 bad_framing, POST /x HTTP/1.1 bad_framing"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	for range 2 * keptRefusals {
		say("GET / HTTP/1.1\r\n\r\n")
	}
	if n := len(l.proxy.Refused()); n != keptRefusals {
		t.Errorf("%d are kept", n)
	}
}

func TestSecretsAreHidden(t *testing.T) {
	b := []byte("GET / HTTP/1.1\r\nHost: a\r\nAUTHORIZATION : Basic abc\r\n folded\r\nX: cookie\r\nCookie:a=b\n")
	hideSecrets(b)
	if got, want := string(b), "GET / HTTP/1.1\r\nHost: a\r\nAUTHORIZATION : ***** ***\r\n ******\r\nX: cookie\r\nCookie:***\n"; got != want {
		t.Errorf("got %q", got)
	}
}
