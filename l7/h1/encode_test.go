package h1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAppendRequest(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields []Field
		out    Out
		want   string // behind the Host field
	}{
		{"no body", []Field{{"Accept", "*/*"}}, Out{}, "Accept: */*\r\n\r\n"},
		{"an empty body", nil, Out{Framing: Length}, "Content-Length: 0\r\n\r\n"},
		{"a length", nil, Out{Framing: Length, Length: 5}, "Content-Length: 5\r\n\r\n"},
		{"chunked", nil, Out{Framing: Chunked, Length: -1}, "Transfer-Encoding: chunked\r\n\r\n"},
		{"upgrade", nil, Out{Upgrade: "websocket"}, "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"only the encoder frames", []Field{{"Content-Length", "9"}, {"transfer-encoding", "chunked"}, {"CONNECTION", "x"},
			{"Keep-Alive", "5"}, {"Proxy-Connection", "x"}, {"Upgrade", "h2c"}, {"Host", "evil"}, {"X", "1"}}, Out{}, "X: 1\r\n\r\n"},
		{"nothing splits a message", []Field{{"X", "a\r\nEvil: 1\r\n\r\nGET / HTTP/1.1"}, {"Y\r\nZ", "1"}, {"Y: 1", "2"}, {"", "3"}, {"N", "\x00\x7f\t"}}, Out{},
			"X: a  Evil: 1    GET / HTTP/1.1\r\nN:   \t\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := string(AppendRequest(nil, "GET", "/x?y", "h:80", c.fields, c.out))
			if diff := cmp.Diff("GET /x?y HTTP/1.1\r\nHost: h:80\r\n"+c.want, got); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

// What lies in the parsed head is not looked at again; everything else is, and
// whether a name frames the message always.
func TestOnlyWhatWasParsedIsTrusted(t *testing.T) {
	head := []byte("Transfer-Encoding: chunked\x01")
	parsed := view(head)
	for _, c := range []struct {
		name  string
		field Field
		want  string
	}{
		{"a parsed value", Field{"X", parsed[19:]}, "X: chunked\x01\r\n"},
		{"a copy", Field{"X", strings.Clone(parsed[19:])}, "X: chunked \r\n"},
		{"one that begins in it", Field{"X", view(head[:cap(head)])[19:]}, "X: chunked \r\n"},
		{"a parsed name", Field{parsed[19:26], "1"}, "chunked: 1\r\n"},
		{"a copy of what is no name", Field{strings.Clone(parsed[:26]), "1"}, ""},
		{"a name that frames", Field{parsed[:17], parsed[19:]}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := head
			if c.name == "one that begins in it" {
				in = head[:20]
			}
			if got := string(appendFields(nil, []Field{c.field}, in)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestCleanNames(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			name := []byte(strings.Repeat("x", 20))
			name[at] = byte(c)
			if got, want := clean(string(name)), c > ' ' && c != ':' && c != 0x7f; got != want {
				t.Fatalf("clean(%q) is %v", name, got)
			}
		}
	}
}

func TestAppendResponse(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		reason string
		out    Out
		want   string
	}{
		{"a length", 200, "", Out{Framing: Length, Length: 5}, "HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 5\r\n\r\n"},
		{"an origin's own reason", 200, "Fine", Out{Framing: Length}, "HTTP/1.1 200 Fine\r\nX: 1\r\nContent-Length: 0\r\n\r\n"},
		{"an unknown status", 299, "", Out{}, "HTTP/1.1 299 \r\nX: 1\r\nContent-Length: 0\r\n\r\n"},
		{"chunked", 200, "", Out{Framing: Chunked, Length: -1}, "HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"HEAD or 304 with a length", 304, "", Out{Length: 50}, "HTTP/1.1 304 Not Modified\r\nX: 1\r\nContent-Length: 50\r\n\r\n"},
		{"HEAD or 304 without", 304, "", Out{Length: -1}, "HTTP/1.1 304 Not Modified\r\nX: 1\r\n\r\n"},
		{"204 has no framing", 204, "", Out{Framing: Length, Length: 5}, "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"},
		{"204 has no coding", 204, "", Out{Framing: Chunked}, "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"},
		{"103 has no framing", 103, "", Out{}, "HTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n"},
		{"101", 101, "", Out{Upgrade: "websocket"}, "HTTP/1.1 101 Switching Protocols\r\nX: 1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"until close", 200, "", Out{Framing: UntilClose, Length: -1, Close: true}, "HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\n"},
		{"keep-alive", 200, "", Out{Framing: Length, KeepAlive: true}, "HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := string(AppendResponse(nil, c.status, c.reason, []Field{{"X", "1"}}, c.out))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

func TestWhatIsEncodedIsReadBack(t *testing.T) {
	var wire []byte
	wire = AppendChunk(wire, []byte("hello"))
	wire = AppendChunk(wire, nil)
	wire = AppendChunk(wire, []byte(strings.Repeat("x", 70000)))
	wire = AppendLastChunk(wire, []Field{{"X-T", "1"}, {"Content-Length", "9"}})
	var b Body
	b.Reset(Chunked, -1, &Limits{})
	data, rest, err := readBody(&b, string(wire), 1000)
	if err != nil || rest != "" || data != "hello"+strings.Repeat("x", 70000) {
		t.Errorf("got %d bytes, rest %q, %v", len(data), rest, err)
	}
	if diff := cmp.Diff([]Field{{"X-T", "1"}}, b.Trailers()); diff != "" {
		t.Error(diff)
	}
}
