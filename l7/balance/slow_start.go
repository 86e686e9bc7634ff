package balance

import "time"

// rampFloor is what a backend gets at first: enough to warm it up.
const rampFloor = 0.1

// Ramp is how much of its weight a backend gets that came up so long ago: from a
// tenth it grows evenly to all when the window is over.
func Ramp(age, window time.Duration) float64 {
	if age >= window {
		return 1
	}
	return max(rampFloor, float64(age)/float64(window))
}
