package admin

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// document serves the text that holds the objects; the ETag is its generation.
func (a *api) document(c *call) error {
	d, err := a.control.Document(c.r.Context(), c.r.URL.Query().Get("generation"))
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", `"`+d.Generation+`"`)
	c.w.Header().Set("Content-Type", "application/yaml")
	_, err = io.WriteString(c.w, d.Text)
	return ignoreGone(err)
}

// apply replaces the document: validated, built, kept, switched in, or refused.
func (a *api) apply(c *call) error {
	c.about = "config"
	text, err := readText(c.r)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	c.order = map[string]any{"bytes": len(text), "sha256": hex.EncodeToString(sum[:])}
	how, err := c.ask()
	if err != nil {
		return err
	}
	done, err := a.control.Apply(c.r.Context(), text, c.r.URL.Query().Get("file"), how)
	return c.answer(done, err)
}

func (a *api) diff(c *call) error {
	text, err := readText(c.r)
	if err != nil {
		return err
	}
	done, err := a.control.Diff(c.r.Context(), text, c.r.URL.Query().Get("file"))
	return c.answer(done, err)
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
	if len(bytes.TrimSpace(text)) == 0 { // of a program that failed, more likely than meant
		return nil, badRequest("the document is empty: every object would go; {} says that this is meant")
	}
	return text, nil
}

// empty refuses a body where none means anything.
func (c *call) empty() error {
	text, err := io.ReadAll(io.LimitReader(c.r.Body, 1))
	if err != nil {
		return badRequest("read the request: %v", err)
	}
	if len(text) > 0 {
		return badRequest("%s %s takes no body", c.endpoint.method, c.endpoint.path)
	}
	return nil
}

func badRequest(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: CodeRequest, Detail: fmt.Sprintf(format, args...)}
}

func tooLarge(limit int64) *Error {
	return &Error{Status: http.StatusRequestEntityTooLarge, Code: CodeRequest, Detail: fmt.Sprintf("the body has more than %d bytes", limit)}
}
