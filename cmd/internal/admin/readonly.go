package admin

import (
	"fmt"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapes is how many metric requests are answered at once.
const scrapes = 4

// ReadOnly serves the dashboard, /metrics, /healthz and /readyz: nothing here
// changes anything, so it may stand on a TCP address.
func ReadOnly(c Control) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{c}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: scrapes,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := c.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	dashboard(mux, c)
	mux.HandleFunc("/", refuseChange)
	return mux
}

// refuseChange answers whatever an address that only reads does not have.
func refuseChange(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeError(w, &Error{Status: http.StatusMethodNotAllowed, Code: CodeReadOnly,
			Detail: "this address only reads; changes go over the unix socket"})
		return
	}
	writeError(w, &Error{Status: http.StatusNotFound, Code: CodeNotFound,
		Detail: "there is no " + r.URL.Path, Hint: "documents are shown over the admin socket; the dashboard at /, /metrics, /healthz and /readyz are here"})
}

func thisVersion(v string) Version { return Version{Version: v, Go: runtime.Version(), API: 1} }
