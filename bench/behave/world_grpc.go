package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cirque-lb/lb/bench/rig"
)

// originGRPC is a backend that answers calls, by HTTP/2 in clear text: what a
// call wants is the last part of its path.
type originGRPC struct {
	ln   net.Listener
	last atomic.Pointer[string] // its last call, as it came
}

func startOriginGRPC() (*originGRPC, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &originGRPC{ln: ln}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	go (&http.Server{Protocols: protocols, Handler: o}).Serve(ln) // ends with the listener
	return o, nil
}

func (o *originGRPC) addr() string { return o.ln.Addr().String() }

const (
	messageGRPC = "\x00\x00\x00\x00\x05hello"
	otherGRPC   = "\x00\x00\x00\x00\x03bye"
)

func (o *originGRPC) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", r.Header.Get("Content-Type"))
	call := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	if call == "None" { // trailers only
		h.Set("Grpc-Status", "12")
		return
	}
	if call == "Never" {
		<-r.Context().Done()
		return
	}
	body, _ := io.ReadAll(r.Body)
	seen := fmt.Sprintf("%s, te %s, x-grpc-web %s, HTTP/%d", r.Header.Get("Content-Type"), r.Header.Get("Te"), r.Header.Get("X-Grpc-Web"), r.ProtoMajor)
	o.last.Store(&seen)
	w.Write(body)
	if call == "Slowly" {
		w.(http.Flusher).Flush()
		select {
		case <-time.After(patience / 4):
		case <-r.Context().Done():
			return
		}
		io.WriteString(w, otherGRPC)
	}
	status := "0"
	if call == "Fail" {
		status = "9"
	}
	h.Set(http.TrailerPrefix+"Grpc-Status", status)
	h.Set(http.TrailerPrefix+"Grpc-Message", "so it is")
}

// call makes a call by HTTP/2, and says what show makes of its answer.
func call(path, contentType, body string, show func(*rig.Answer) string, more ...string) func(*world) string {
	return func(w *world) string {
		return w.link(func(l *rig.Link) string {
			f := askAs("POST", append([]string{"content-type", contentType, "te", "trailers"}, more...)...)
			f[5] = path
			l.Say(1, false, f...)
			l.Put(1, true, body)
			a := l.Await(1)
			return a.Said() + " " + show(a)
		})
	}
}

// callWeb makes a call in gRPC-Web's words by HTTP/1, and says its content type,
// its messages and its status.
func callWeb(path, contentType, body string, more ...string) func(*world) string {
	return func(w *world) string {
		return w.client(func(c *conn) string {
			head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nX-Grpc-Web: 1\r\nContent-Length: %d\r\n", path, contentType, len(body))
			for _, line := range more {
				head += line + "\r\n"
			}
			m := c.say(head + "\r\n" + body).response("POST")
			return m.said() + " " + shownWeb(m.fields.get("content-type"), m.fields.get("grpc-status"), m.body)
		})
	}
}

// shownWeb says what is in a gRPC-Web answer: the type, the messages' texts, the
// trailers' frame, and a status in the head.
func shownWeb(contentType, status, body string) string {
	if strings.HasPrefix(contentType, "application/grpc-web-text") {
		var ok bool
		if body, ok = decodedTexts(body); !ok {
			return "no base64"
		}
	}
	out := contentType + ":"
	for len(body) >= 5 {
		n := int(body[1])<<24 | int(body[2])<<16 | int(body[3])<<8 | int(body[4])
		if n > len(body)-5 {
			return out + " cut"
		}
		text := body[5 : 5+n]
		if body[0]&0x80 != 0 {
			text = "[" + strings.ReplaceAll(strings.TrimSuffix(text, "\r\n"), "\r\n", ", ") + "]"
		}
		out += " " + text
		body = body[5+n:]
	}
	if body != "" {
		out += " and more"
	}
	if status != "" {
		out += " status " + status + " in the head"
	}
	return out
}

// decodedTexts decodes base64 that may be several texts, each with its padding.
func decodedTexts(s string) (string, bool) {
	var out []byte
	for ; len(s) >= 4; s = s[4:] {
		p, err := base64.StdEncoding.DecodeString(s[:4])
		if err != nil {
			return "", false
		}
		out = append(out, p...)
	}
	return string(out), s == ""
}

// preflight asks whether a page of an origin may call.
func preflight(origin string) func(*world) string {
	return down("OPTIONS /web/p.S/Echo HTTP/1.1\r\nHost: a\r\nOrigin: "+origin+
		"\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-grpc-web\r\n\r\n",
		func(m message) string {
			return fmt.Sprintf("origin %s, methods %s, headers %s", m.fields.get("access-control-allow-origin"),
				m.fields.get("access-control-allow-methods"), m.fields.get("access-control-allow-headers"))
		})
}

// streamed makes a call that is answered in two parts, and says whether the first
// comes before the second is there.
func streamed(w *world) string {
	return w.client(func(c *conn) string {
		body := base64.StdEncoding.EncodeToString([]byte(messageGRPC))
		m := c.say(fmt.Sprintf("POST /web/p.S/Slowly HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web-text\r\nContent-Length: %d\r\n\r\n%s", len(body), body)).head()
		line, _ := c.line()
		began := time.Now()
		c.line()
		c.readChunks(&m)
		when := "at once"
		if time.Since(began) < patience/8 {
			when = "with the last"
		}
		return fmt.Sprintf("%d, the first message came %s", m.status(), when) + map[bool]string{true: "", false: " (" + line + ")"}[line != "" && m.whole]
	})
}
