package l7

import "github.com/cirque-lb/lb/l7/h1"

// What a serverH1 is as the downstream of its current exchange.

func (s *serverH1) sendInfo(status int, h Header) {
	s.thread.text = h1.AppendResponse(s.thread.text[:0], status, "", h, h1.Out{Length: -1})
	s.t.Write(s.thread.text)
}

func (s *serverH1) sendHead(res *Response, end bool) {
	t := s.turn
	out := h1.Out{Length: -1, Upgrade: res.Upgrade, Parsed: res.parsed}
	if res.Status != 101 {
		s.frame(&out, res, end)
		out.Close = s.closes()
		out.KeepAlive = !out.Close && t.request.Version == HTTP10
	} else {
		s.startTunnel()
	}
	header := res.Header
	if res.Status >= 200 && !header.Has("date") {
		header = append(header, Field{Name: "Date", Value: s.thread.dateText()})
	}
	head := h1.AppendResponse(s.thread.text[:0], res.Status, "", header, out)
	s.thread.text = head
	s.t.Write(head)
}

// frame chooses how the client finds the response's end.
func (s *serverH1) frame(out *h1.Out, res *Response, end bool) {
	t := s.turn
	t.noBody = t.request.Method == "HEAD" || res.Status == 304 || res.Status == 204
	switch {
	case t.noBody:
		out.Length = res.Length
	case end:
		out.Framing, out.Length = h1.Length, 0
	case res.Length >= 0:
		out.Framing, out.Length = h1.Length, res.Length
	case t.request.Version == HTTP10:
		out.Framing = h1.UntilClose
		s.closeNext = true
	default:
		out.Framing = h1.Chunked
	}
	t.framing, t.left = out.Framing, out.Length
}

// closes reports whether the connection ends with this response: by the wish of
// either side, or because the rest of the request is not going to be read.
func (s *serverH1) closes() bool {
	if s.state == serverBody || s.thread.draining(s.client) && !s.moves() {
		s.closeNext = true
	}
	return s.closeNext
}

// moves: an upgrade hands the connection over after this response.
func (s *serverH1) moves() bool {
	return s.thread.give != nil && !s.stays() && !s.thread.proxy.view.Load().draining
}

func (s *serverH1) sendBody(p []byte, end bool) {
	t := s.turn
	switch {
	case s.state == serverTunnel:
		s.t.Write(p)
		if end {
			s.t.CloseWrite()
		}
	case t.noBody:
	case t.framing == h1.Chunked:
		s.thread.writeChunk(s.t, p)
		if end {
			s.t.Write(lastChunk)
		}
	case t.framing == h1.Length:
		s.sendLength(p, end)
	default:
		s.t.Write(p)
	}
}

var lastChunk = []byte("0\r\n\r\n")

// sendLength sends a body whose length was announced. One that is longer or
// shorter cannot be mended: the connection ends without looking complete.
func (s *serverH1) sendLength(p []byte, end bool) {
	t := s.turn
	if int64(len(p)) > t.left {
		p = p[:t.left]
		s.closeNext = true
	}
	t.left -= int64(len(p))
	s.t.Write(p)
	if end && t.left > 0 {
		s.aborted = true
	}
}

func (s *serverH1) sendTrailers(h Header) {
	if t := s.turn; t.framing == h1.Chunked && !t.noBody {
		s.thread.text = h1.AppendLastChunk(s.thread.text[:0], h)
		s.t.Write(s.thread.text)
	}
}

func (s *serverH1) pauseBody() {
	s.pausedBody = true
	s.t.Pause()
}

func (s *serverH1) resumeBody() {
	s.pausedBody = false
	s.resumeReading()
}

// buffered says that the client is full as soon as the kernel is: what more was
// read from the backend would have to be kept.
func (s *serverH1) buffered() int {
	n := s.t.Buffered()
	if n > 0 && s.t.Blocked() {
		n += highWater
	}
	return n
}

func (s *serverH1) room() int { return s.t.Room() }

func (s *serverH1) known() bool { return s.served > 1 }

// abort: the response is not whole, and must not look so.
func (s *serverH1) abort(*Error) { s.aborted = true }
