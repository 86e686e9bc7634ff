package node

import "time"

// Asked is how a change was asked for.
type Asked struct {
	By      string        // who, for the history and the log
	Match   string        // refuse unless this generation runs; "": any
	Dry     bool          // say what would change, no more
	Confirm time.Duration // take it back unless it is confirmed in time; 0: it stays
}

// fits refuses what was asked of another generation than the one that runs.
func (a Asked) fits(now Generation) error {
	if a.Match == "" || a.Match == now.String() {
		return nil
	}
	return fail(Conflict, "look at it with `lbctl config show` and edit again",
		"the edit began with generation %s; %s runs", a.Match, now)
}
