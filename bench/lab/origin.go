package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

const tick = 200 * time.Millisecond // between two lines of /stream

// serveOrigin is a backend: the same binary, started as `lab origin NAME PORT`.
func serveOrigin(ctx context.Context, name, address string) error {
	server := &http.Server{Addr: address, Handler: origin(name), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute}
	context.AfterFunc(ctx, func() { server.Close() })
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen as %s: %w", name, err)
	}
	if err := serveEcho(ctx, name, address); err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	return server.Serve(listener)
}

func origin(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/whoami", func(w http.ResponseWriter, r *http.Request) { whoami(w, r, name) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { tickSlowly(w, r, name) })
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) { tickForever(w, r, name) })
	return mux
}

// whoami tells what arrived here.
func whoami(w http.ResponseWriter, r *http.Request, name string) {
	host, _ := os.Hostname()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Origin", name)
	json.NewEncoder(w).Encode(map[string]any{
		"origin": name, "host": host, "remote": r.RemoteAddr, "method": r.Method, "url": r.URL.String(), "proto": r.Proto, "header": r.Header,
	})
}

// tickForever sends a line per tick until the client goes: a long-lived connection
// that is never idle.
func tickForever(w http.ResponseWriter, r *http.Request, name string) {
	w.Header().Set("X-Origin", name)
	flush := http.NewResponseController(w)
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(w, "%d\n", i); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(tick):
		}
	}
}
