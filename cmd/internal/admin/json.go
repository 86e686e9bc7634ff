package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"syscall"
	"time"
)

// answerTime bounds one answer; an event stream extends it.
const answerTime = 2 * time.Minute

func deadline() time.Time { return time.Now().Add(answerTime) }

func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxOrder))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if big := (*http.MaxBytesError)(nil); errors.As(err, &big) {
		return tooLarge(big.Limit)
	}
	if err != nil {
		return badRequest("read the order: %v", err)
	}
	if d.Decode(new(json.RawMessage)) != io.EOF {
		return badRequest("read the order: more than one JSON value")
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return ignoreGone(e.Encode(v))
}

// problemOf is an error as it is answered.
func problemOf(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e = &Error{Status: http.StatusServiceUnavailable, Code: CodeBusy, Detail: err.Error()}
	default:
		e = &Error{Status: http.StatusInternalServerError, Code: CodeInternal, Detail: err.Error()}
	}
	out := *e
	out.Type = "about:blank"
	out.Title = http.StatusText(out.Status)
	return &out
}

// writeError answers with problem+json.
func writeError(w http.ResponseWriter, err error) {
	out := problemOf(err)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(out.Status)
	json.NewEncoder(w).Encode(out) // who does not read the error cannot be told of another
}

// ignoreGone drops the error of a client that does not wait for its answer:
// the headers are out, nothing can be said any more.
func ignoreGone(err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}
