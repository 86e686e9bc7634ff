package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
)

// asked is a request: what belongs to it is told by its number.
type asked struct {
	id     uint64
	size   int
	upload int // -1: none
}

func (l *load) ask(c *client) asked {
	a := asked{id: l.ids.Add(2), size: c.size(), upload: -1}
	if c.random.IntN(2) == 0 {
		a.id++ // answered in chunks
	}
	if c.random.IntN(4) == 0 {
		a.upload = c.size()
	}
	return a
}

func (a asked) request(ctx context.Context, base, class string, random *rand.Rand) *http.Request {
	url := fmt.Sprintf("%s/%s/%d/%d", base, class, a.id, a.size)
	if a.upload < 0 {
		r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		return a.dress(r, random)
	}
	r, _ := http.NewRequestWithContext(ctx, "PUT", url, &pattern{id: a.id + 1, size: a.upload})
	if random.IntN(2) == 0 {
		r.ContentLength = int64(a.upload)
		if a.upload == 0 {
			r.Body = http.NoBody
		}
	}
	r.Header.Set("X-Upload", strconv.Itoa(a.upload))
	return a.dress(r, random)
}

func (a asked) dress(r *http.Request, random *rand.Rand) *http.Request {
	if random.IntN(5) == 0 {
		r.Header.Set("X-Pool", "h2")
	}
	return r
}

// check holds a response against its request.
func (a asked) check(res *http.Response, buffer []byte) error {
	defer res.Body.Close()
	err := a.compare(res, buffer)
	if errors.Is(err, errWrong) {
		return &wrongAnswer{asked: a, head: fmt.Sprintf("%s %s %v", res.Proto, res.Status, res.Header), err: err}
	}
	return err
}

func (a asked) compare(res *http.Response, buffer []byte) error {
	if res.StatusCode != 200 {
		text, err := io.ReadAll(io.LimitReader(res.Body, 200))
		if err == nil && res.StatusCode >= 502 && res.StatusCode <= 504 && strings.HasPrefix(string(text), strconv.Itoa(res.StatusCode)) {
			return fmt.Errorf("%w: %s", errRefused, text)
		}
		return fmt.Errorf("%w: %s %q (%v)", errWrong, res.Status, text, err)
	}
	if !strings.HasPrefix(res.Header.Get("X-Origin"), nonce) {
		return fmt.Errorf("%w: no backend of this run answers %d", errWrong, a.id)
	}
	if got := res.Header.Get("X-Id"); got != strconv.FormatUint(a.id, 10) {
		return fmt.Errorf("%w: the answer to %s for %d", errWrong, got, a.id)
	}
	body := pattern{id: a.id, size: a.size}
	if err := body.check(res.Body, buffer); err != nil {
		return err
	}
	if end := res.Trailer.Get("X-End"); a.id%2 == 1 && end != strconv.FormatUint(a.id, 10) {
		return fmt.Errorf("%w: trailer %q for %d", errWrong, end, a.id)
	}
	return nil
}
