package filter

import (
	"strings"

	"github.com/cirque-lb/lb/l7"
)

// addVary notes that a response depends on a field of its request.
func addVary(h *l7.Header, name string) {
	for _, f := range *h {
		if strings.EqualFold(f.Name, "vary") && (hasToken(f.Value, name) || hasToken(f.Value, "*")) {
			return
		}
	}
	h.Add("Vary", name)
}

// hasToken reports whether a list has a token; parameters and values behind it
// do not count.
func hasToken(list, token string) bool {
	for list != "" {
		var item string
		item, list, _ = strings.Cut(list, ",")
		if end := strings.IndexAny(item, ";="); end >= 0 {
			item = item[:end]
		}
		if strings.EqualFold(strings.TrimSpace(item), token) {
			return true
		}
	}
	return false
}
