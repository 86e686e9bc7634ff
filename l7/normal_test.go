package l7

import (
	"fmt"
	"strings"
	"testing"
)

func TestNormalPaths(t *testing.T) {
	for in, want := range map[string]string{
		"/":                     "/",
		"/plain/path?q=%2e":     "/plain/path?q=%2e",
		"/a/../x/%2e%2e/y":      "/y",
		"//x%2Fy;a=b":           "/x%2Fy;a=b",
		"/x%2fy%3a":             "/x%2Fy%3A",
		"/%7Euser/%41%62%2D%5f": "/~user/Ab-_",
		"/a/b/..":               "/a/",
		"/a/b/.":                "/a/b/",
		"/a/./b//c/":            "/a/b/c/",
		"/../../etc/passwd":     "/etc/passwd",
		"/%2E%2e/%2e/":          "/",
		"/a/%252e%252e/b":       "/a/%252e%252e/b", // decoded once only
		"/%%370dmin":            "/%2570dmin",      // not /%70dmin, which a backend takes for /pdmin
		"/100%/%zz%2":           "/100%25/%25zz%252",
		"/.well-known/x":        "/.well-known/x",
		"/...":                  "/...",
		"/a?x=/../y//z":         "/a?x=/../y//z",
		"*":                     "*",
		"/caf%c3%a9":            "/caf%C3%A9",
	} {
		got := Normal(in)
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
		if again := Normal(got); again != got {
			t.Errorf("%q is plain, but becomes %q", got, again)
		}
	}
}

func FuzzNormal(f *testing.F) {
	f.Add("/a/../%2e%2E/b//c%2f?d")
	f.Add("/%%370")
	f.Fuzz(func(t *testing.T, in string) {
		got := Normal(in)
		path, _, _ := strings.Cut(got, "?")
		if strings.HasPrefix(in, "/") && (strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./") || strings.Contains(path, "//")) || Normal(got) != got {
			t.Errorf("%q becomes %q", in, got)
		}
	})
}

// A path that hides where it leads is matched by where it leads.
func TestAListenerMakesPathsPlain(t *testing.T) {
	o := startOrigin(t, func(c *peer) {
		line, _, _ := strings.Cut(c.request(), "\n")
		c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(line), line))
	})
	document := strings.Replace(routed("", o.addr), "routes:\n", "routes:\n  - { match: { path: /admin/ }, respond: { status: 403 } }\n", 1)
	for _, c := range []struct{ listener, want string }{
		{"", "HTTP/1.1 200 OK GET /x/..//%61dmin/a?b=// HTTP/1.1"},
		{", normalize: true", "HTTP/1.1 403 Forbidden "},
	} {
		l := startLab(t, labOptions{}, strings.Replace(document, `"127.0.0.1:1"`, `"127.0.0.1:1"`+c.listener, 1))
		r := l.dial().say("GET /x/..//%61dmin/a?b=// HTTP/1.1\r\nHost: a\r\n\r\n").response()
		if got := r.status + " " + r.body; got != c.want {
			t.Errorf("%q: got %q, want %q", c.listener, got, c.want)
		}
	}
}
