package admin

import "github.com/cirque-lb/lb"

// Codes of the control plane's own errors; those of configuration are lb's.
const (
	CodeOwnedByFile = "LB5001" // the objects are the file's
	CodeNotFound    = "LB5002" // no such backend, pool, node, generation
	CodeConflict    = "LB5003" // If-Match names another generation
	CodeOtherNode   = "LB5004" // only the node itself can do it
	CodeBusy        = "LB5005" // too many changes wait
	CodeState       = "LB5006" // state could not be written
	CodeWorkers     = "LB5007" // the workers could not build or bind it
	CodeUpgrade     = "LB5008" // the new crew did not become ready
	CodeMissing     = "LB5009" // needs a cluster, a fast path or a privilege that is not here
	CodeRequest     = "LB5010" // the request itself is not understood
	CodeReadOnly    = "LB5011" // this address only reads
	CodeInternal    = "LB5012" // a fault of ours
	CodeRefused     = "LB5013" // the configuration is refused; Errors say where
)

// Error is an application/problem+json body and the error a Client returns for
// it. Detail is a whole sentence or more, Hint the next thing to do.
type Error struct {
	Type   string      `json:"type"`
	Title  string      `json:"title"`
	Status int         `json:"status"`
	Detail string      `json:"detail"`
	Code   string      `json:"code"`
	Hint   string      `json:"hint,omitempty"`
	Errors []*lb.Error `json:"errors,omitempty"` // of a refused configuration
	// Workers is what each worker answered, when they refused it.
	Workers []Built `json:"workers,omitempty"`
}

func (e *Error) Error() string { return e.Code + " " + e.Detail }
