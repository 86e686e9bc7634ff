package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
)

// CaptureOrder says which packets of the fast path to capture, as clients sent
// them. What is left out is any.
type CaptureOrder struct {
	Flow    string `json:"flow,omitempty"`    // "192.0.2.10:80", or "tcp 198.51.100.7:40000 > 192.0.2.10:80"; port 0 is any
	Verdict string `json:"verdict,omitempty"` // drop | pass | tx | redirect
	Reason  string `json:"reason,omitempty"`  // xdp_no_owner
	Packets int    `json:"packets,omitempty"` // at most; default 1000
	Seconds int    `json:"seconds,omitempty"` // at most; default 10
	Snaplen int    `json:"snaplen,omitempty"` // bytes of each packet; default 256
}

// CaptureDone is how a capture went.
type CaptureDone struct {
	Packets uint64 `json:"packets"`
	Lost    uint64 `json:"lost"` // matched, but came faster than they were read
}

// pcapng stands for a body of captured packets.
type pcapng struct{}

const pcapngType = "application/x-pcapng"

// Trailers that say how a capture went.
const (
	capturedTrailer = "Lbd-Captured"
	lostTrailer     = "Lbd-Lost"
)

// capture streams packets until there are enough or the client goes.
func (a *api) capture(c *call) error {
	var o CaptureOrder
	if err := readJSON(c.r, &o); err != nil {
		return err
	}
	c.w.Header().Set("Trailer", capturedTrailer+", "+lostTrailer)
	to := &stream{c.w, http.NewResponseController(c.w), false}
	done, err := a.control.Capture(c.r.Context(), o, to)
	if err != nil && !to.begun {
		c.w.Header().Del("Trailer")
		return err
	}
	if err != nil {
		a.log.Warn("a capture ended early", "err", err)
		panic(http.ErrAbortHandler) // else what came would look whole
	}
	c.w.Header().Set(capturedTrailer, strconv.FormatUint(done.Packets, 10))
	c.w.Header().Set(lostTrailer, strconv.FormatUint(done.Lost, 10))
	return nil
}

// stream sends each write at once. A client that does not read is cut off by
// the write deadline.
type stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	begun bool
}

func (s *stream) Write(b []byte) (int, error) {
	if !s.begun {
		s.w.Header().Set("Content-Type", pcapngType)
		s.begun = true
	}
	s.rc.SetWriteDeadline(deadline())
	n, err := s.w.Write(b)
	if err == nil {
		s.rc.Flush() // its error shows in the next write
	}
	return n, err
}

// Capture writes packets to w as pcapng, until there are enough or ctx ends.
func (c *Client) Capture(ctx context.Context, o CaptureOrder, w io.Writer) (done CaptureDone, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return done, err
	}
	res, err := c.send(ctx, "POST", "/v1/capture", nil, body)
	if err != nil {
		return done, err
	}
	defer res.Body.Close()
	if _, err = io.Copy(w, res.Body); err != nil && ctx.Err() == nil {
		return done, &Unreachable{c.path, err}
	}
	done.Packets, _ = strconv.ParseUint(res.Trailer.Get(capturedTrailer), 10, 64)
	done.Lost, _ = strconv.ParseUint(res.Trailer.Get(lostTrailer), 10, 64)
	return done, nil
}
