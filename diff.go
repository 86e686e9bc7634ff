package lb

// ChangeKind is what happens to an object.
type ChangeKind string

// The kinds of changes.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Change is one difference between two configurations.
type Change struct {
	Kind ChangeKind `json:"kind"`
	Path string     `json:"path"` // pools.app.backends.127.0.0.1:9001.weight
	Old  string     `json:"old,omitempty"`
	New  string     `json:"new,omitempty"`
	// Backend is set when the change adds, removes or changes a backend.
	Backend *BackendID `json:"backend,omitempty"`
}

// Diff lists what changes from old to new, in the order of the document.
func Diff(old, new *Config) []Change { return nil }
