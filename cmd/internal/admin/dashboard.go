package admin

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"time"
)

// The dashboard: one page and what it needs, so that it works without a network.
// uplot.js and uplot.css are uPlot 1.6.32 as npm has it.
//
//go:embed dashboard
var dashboardFiles embed.FS

const (
	lookEvery = time.Second
	streams   = 16  // pages that look at once
	firstSeen = 100 // events that a page begins with
)

// policy lets the page load its own files and talk to where it came from, and
// nothing else: no text of a request or a configuration can become code.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Look is what the dashboard shows once a second.
type Look struct {
	Status   Status    `json:"status"`
	Backends []Backend `json:"backends"`
	Traffic  Traffic   `json:"traffic"`
}

func dashboard(mux *http.ServeMux, c Control) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { serveFile(w, r, "index.html") })
	mux.HandleFunc("GET /dashboard/{file}", func(w http.ResponseWriter, r *http.Request) { serveFile(w, r, r.PathValue("file")) })
	room := make(chan struct{}, streams)
	mux.HandleFunc("GET /dashboard/stream", func(w http.ResponseWriter, r *http.Request) {
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
			watchLooks(w, r, c)
		default:
			http.Error(w, fmt.Sprintf("%d pages look already", streams), http.StatusServiceUnavailable)
		}
	})
}

var fileTypes = map[string]string{".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

func serveFile(w http.ResponseWriter, r *http.Request, name string) {
	text, err := dashboardFiles.ReadFile("dashboard/" + path.Base(name))
	kind := fileTypes[path.Ext(name)]
	if err != nil || kind == "" {
		refuseChange(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(text)
}

// watchLooks sends looks and events until the page goes. A page that does not read
// is cut off by the write deadline.
func watchLooks(w http.ResponseWriter, r *http.Request, c Control) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	rc := http.NewResponseController(w)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var after uint64
	for {
		rc.SetWriteDeadline(deadline())
		list, more := c.Events(after)
		if after == 0 && len(list) > firstSeen {
			list = list[len(list)-firstSeen:]
		}
		for _, e := range list {
			send(w, "happened", e)
			after = e.Seq
		}
		if l, err := look(r.Context(), c); err == nil {
			send(w, "look", l)
		} else {
			send(w, "trouble", err.Error())
		}
		if rc.Flush() != nil {
			return // the page is gone
		}
		select {
		case <-ticker.C:
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

func look(ctx context.Context, c Control) (l Look, err error) {
	if l.Status, err = c.Status(ctx); err != nil {
		return l, err
	}
	if l.Backends, err = c.Backends(ctx); err != nil {
		return l, err
	}
	l.Traffic, err = c.Traffic(ctx)
	return l, err
}

// send writes one server-sent event; JSON has no line breaks.
func send(w http.ResponseWriter, kind string, v any) {
	if body, err := json.Marshal(v); err == nil {
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, body)
	}
}
