package lb

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// nearest is a hint that names the candidate most like the word; without one
// that is near it lists the candidates, when they are few.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, c := range candidates[:min(len(candidates), 1000)] {
		if d := distance(strings.ToLower(word), strings.ToLower(c), bestDistance); d < bestDistance && d < max(len(word), len(c)) {
			best, bestDistance = c, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(candidates) == 0 || len(candidates) > 16:
		return ""
	}
	return "have " + strings.Join(candidates, ", ")
}

// maxCompared bounds the words that distance looks at.
const maxCompared = 64

// distance is the Levenshtein distance, or limit when it is at least that.
func distance(a, b string, limit int) int {
	if len(a) > maxCompared || len(b) > maxCompared || max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	var rows [2][maxCompared + 1]int
	previous, row := &rows[0], &rows[1]
	for j := range len(b) + 1 {
		previous[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			substitute := previous[j]
			if a[i] != b[j] {
				substitute++
			}
			row[j+1] = min(previous[j+1]+1, row[j]+1, substitute)
		}
		previous, row = row, previous
	}
	return min(previous[len(b)], limit)
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
