package admin

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// document serves the text that holds the objects; the ETag is its generation.
func (a *api) document(w http.ResponseWriter, r *http.Request) error {
	d, err := a.control.Document(r.Context(), r.URL.Query().Get("generation"))
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+d.Generation+`"`)
	w.Header().Set("Content-Type", "application/yaml")
	_, err = io.WriteString(w, d.Text)
	return ignoreGone(err)
}

// apply replaces the document: validated, built, kept, switched in, or refused.
func (a *api) apply(w http.ResponseWriter, r *http.Request) error {
	text, err := readText(r)
	if err != nil {
		return err
	}
	match, err := ifMatch(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	done, err := a.control.Apply(r.Context(), Apply{
		Text: text, File: q.Get("file"), Match: match, DryRun: q.Get("dry_run") == "true",
	}, peer(r))
	return answer(w, done, err)
}

func (a *api) diff(w http.ResponseWriter, r *http.Request) error {
	text, err := readText(r)
	if err != nil {
		return err
	}
	done, err := a.control.Diff(r.Context(), text, r.URL.Query().Get("file"))
	return answer(w, done, err)
}

func (a *api) rollback(w http.ResponseWriter, r *http.Request) error {
	var to struct {
		Generation string `json:"generation"`
	}
	if err := readJSON(r, &to); err != nil {
		return err
	}
	done, err := a.control.Rollback(r.Context(), to.Generation, peer(r))
	return answer(w, done, err)
}

func (a *api) editBackend(w http.ResponseWriter, r *http.Request) error {
	var e BackendEdit
	if err := readJSON(r, &e); err != nil {
		return err
	}
	var err error
	if e.Match, err = ifMatch(r); err != nil {
		return err
	}
	done, err := a.control.EditBackend(r.Context(), e, peer(r))
	return answer(w, done, err)
}

// answer writes the verdict on a change with the generation it led to.
func answer(w http.ResponseWriter, done Applied, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+done.Generation+`"`)
	return writeJSON(w, done)
}

// ifMatch is the generation that If-Match names; "" when there is none, or *.
func ifMatch(r *http.Request) (string, error) {
	tag := r.Header.Get("If-Match")
	if tag == "" || tag == "*" {
		return "", nil
	}
	generation, ok := strings.CutPrefix(tag, `"`)
	generation, closed := strings.CutSuffix(generation, `"`)
	if !ok || !closed || strings.ContainsAny(generation, `",`) {
		return "", badRequest("If-Match is one generation in quotes, such as \"42@edge-1\", not %s", tag)
	}
	return generation, nil
}

func readText(r *http.Request) ([]byte, error) {
	text, err := io.ReadAll(r.Body)
	if big := (*http.MaxBytesError)(nil); errors.As(err, &big) {
		return nil, tooLarge(big.Limit)
	}
	if err != nil {
		return nil, badRequest("read the document: %v", err)
	}
	return text, nil
}

func badRequest(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: CodeRequest, Detail: fmt.Sprintf(format, args...)}
}

func tooLarge(limit int64) *Error {
	return &Error{Status: http.StatusRequestEntityTooLarge, Code: CodeRequest, Detail: fmt.Sprintf("the body has more than %d bytes", limit)}
}
