package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Watch calls f for every event after a number, as they come, until ctx ends,
// f fails or the node goes.
func (c *Client) Watch(ctx context.Context, after uint64, f func(Event) error) error {
	res, err := c.send(ctx, "GET", fmt.Sprintf("/v1/events?after=%d", after), http.Header{"Accept": {"text/event-stream"}}, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxOrder)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return &Unreachable{c.path, fmt.Errorf("read an event: %w", err)}
		}
		if err := f(e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := lines.Err(); err != nil {
		return &Unreachable{c.path, err}
	}
	return &Unreachable{c.path, fmt.Errorf("the node ended the stream")}
}
