package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// beat is how often a quiet event stream shows that it is alive.
const beat = 15 * time.Second

// events lists what the ring holds, or streams it as server-sent events.
func (a *api) events(c *call) error {
	after, err := eventNumber(c.r)
	if err != nil {
		return err
	}
	if strings.Contains(c.r.Header.Get("Accept"), "text/event-stream") {
		return a.stream(c.w, c.r, after)
	}
	list, _ := a.control.Events(after)
	if list == nil {
		list = []Event{}
	}
	return writeJSON(c.w, list)
}

// eventNumber is where to begin: after=N, or what a stream that broke had last.
func eventNumber(r *http.Request) (uint64, error) {
	text := r.Header.Get("Last-Event-ID")
	if q := r.URL.Query().Get("after"); q != "" {
		text = q
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, badRequest("%q is not the number of an event", text)
	}
	return n, nil
}

// stream sends events until the client goes. A client that does not read is
// cut off by the write deadline.
func (a *api) stream(w http.ResponseWriter, r *http.Request, after uint64) error {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		list, more := a.control.Events(after)
		rc.SetWriteDeadline(deadline())
		for _, e := range list {
			body, err := json.Marshal(e)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", e.Seq, body)
			after = e.Seq
		}
		if len(list) == 0 {
			fmt.Fprint(w, ":\n\n")
		}
		if rc.Flush() != nil {
			return nil // the client is gone
		}
		select {
		case <-more:
		case <-ticker.C:
		case <-r.Context().Done():
			return nil
		}
	}
}
