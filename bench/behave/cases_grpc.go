package main

import (
	"encoding/base64"
	"fmt"

	"github.com/cirque-lb/lb/bench/rig"
)

// grpcCases are section F: gRPC, and gRPC-Web for browsers, which only we bridge.
func grpcCases() []behaviour {
	all := callCases()
	web := webCases()
	for i := range web {
		web[i].only = true
		web[i].name = "gRPC-Web: " + web[i].name
	}
	return append(all, web...)
}

func callCases() []behaviour {
	const grpc = "application/grpc+proto"
	trailers := func(a *rig.Answer) string {
		return fmt.Sprintf("%q, trailers %s %s", a.Body, a.Trailer.Get("grpc-status"), a.Trailer.Get("grpc-message"))
	}
	status := func(a *rig.Answer) string {
		return fmt.Sprintf("%s in the head, %d bytes", a.Head.Get("grpc-status"), len(a.Body))
	}
	return []behaviour{
		{name: "gRPC: messages and trailers", do: call("/grpc/p.S/Echo", grpc, messageGRPC, trailers), want: []string{fmt.Sprintf("200 %q, trailers 0 so it is", messageGRPC)}},
		{name: "gRPC: a failure behind messages", do: call("/grpc/p.S/Fail", grpc, messageGRPC, trailers), want: []string{fmt.Sprintf("200 %q, trailers 9 so it is", messageGRPC)}},
		{name: "gRPC: trailers only", do: call("/grpc/p.S/None", grpc, messageGRPC, status), want: []string{"200 12 in the head, 0 bytes"}},
		{name: "gRPC: no backend is a status", do: call("/grpcdead/p.S/Echo", grpc, messageGRPC, status), want: []string{"200 14 in the head, 0 bytes", "50* in the head*"}},
		{name: "gRPC: grpc-timeout", do: call("/grpc/p.S/Never", grpc, messageGRPC, status, "grpc-timeout", "200m"), want: []string{"200 4 in the head, 0 bytes", "504*"}},
	}
}

func webCases() []behaviour {
	const binary, text = "application/grpc-web+proto", "application/grpc-web-text+proto"
	in64 := base64.StdEncoding.EncodeToString([]byte(messageGRPC))
	const page = "https://shop.example"
	seen := func(then func(*world) string) func(*world) string {
		return func(w *world) string {
			then(w)
			if p := w.backendGRPC.last.Load(); p != nil {
				return *p
			}
			return "nothing"
		}
	}
	return []behaviour{
		{name: "binary", do: callWeb("/web/p.S/Echo", binary, messageGRPC), want: []string{"200 " + binary + ": hello [grpc-message: so it is, grpc-status: 0]"}},
		{name: "text", do: callWeb("/web/p.S/Echo", text, in64), want: []string{"200 " + text + ": hello [grpc-message: so it is, grpc-status: 0]"}},
		{name: "several texts in base64", do: callWeb("/web/p.S/Echo", text, "AA==AAAA"+base64.StdEncoding.EncodeToString([]byte(messageGRPC[4:]))),
			want: []string{"200 " + text + ": hello [grpc-message: so it is, grpc-status: 0]"}},
		{name: "binary asked, text wanted", do: callWeb("/web/p.S/Echo", binary, messageGRPC, "Accept: application/grpc-web-text"),
			want: []string{"200 " + text + ": hello [grpc-message: so it is, grpc-status: 0]"}},
		{name: "over HTTP/2", do: call("/web/p.S/Echo", binary, messageGRPC, func(a *rig.Answer) string {
			return shownWeb(a.Head.Get("content-type"), a.Head.Get("grpc-status"), a.Body)
		}), want: []string{"200 " + binary + ": hello [grpc-message: so it is, grpc-status: 0]"}},
		{name: "what the backend sees is gRPC", do: seen(callWeb("/web/p.S/Echo", text, in64)), want: []string{"application/grpc+proto, te trailers, x-grpc-web , HTTP/2"}},
		{name: "a stream is not held up", do: streamed, want: []string{"200, the first message came at once"}},
		{name: "a failure behind messages", do: callWeb("/web/p.S/Fail", binary, messageGRPC), want: []string{"200 " + binary + ": hello [grpc-message: so it is, grpc-status: 9]"}},
		{name: "a failure without messages", do: callWeb("/web/p.S/None", binary, messageGRPC), want: []string{"200 " + binary + ": status 12 in the head"}},
		{name: "no backend is a status", do: callWeb("/webdead/p.S/Echo", binary, messageGRPC), want: []string{"200 " + binary + ": status 14 in the head"}},
		{name: "grpc-timeout", do: callWeb("/web/p.S/Never", binary, messageGRPC, "grpc-timeout: 200m"), want: []string{"200 " + binary + ": status 4 in the head"}},
		{name: "no base64", do: callWeb("/web/p.S/Echo", text, "A?=="), want: []string{"200 " + text + ": status 13 in the head"}},
		{name: "preflight", do: preflight(page), want: []string{"204 origin " + page + ", methods POST, headers content-type,x-grpc-web"}},
		{name: "preflight of a stranger", do: preflight("https://evil.example"), want: []string{"204 origin , methods , headers "}},
		{name: "a page may read the status", do: func(w *world) string {
			return w.client(func(c *conn) string {
				m := c.say("POST /web/p.S/None HTTP/1.1\r\nHost: a\r\nOrigin: " + page + "\r\nContent-Type: " + binary + "\r\nContent-Length: 0\r\n\r\n").response("POST")
				return fmt.Sprintf("%s origin %s, may read %s", m.said(), m.fields.get("access-control-allow-origin"), m.fields.get("access-control-expose-headers"))
			})
		}, want: []string{"200 origin " + page + ", may read grpc-status, grpc-message"}},
	}
}
