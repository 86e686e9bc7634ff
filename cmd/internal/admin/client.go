package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// maxAnswer bounds what a client reads of one answer.
const maxAnswer = 64 << 20

// Client talks to a node over its unix socket. Its methods may be called
// concurrently; errors are *Error, or *Unreachable when nobody answers.
type Client struct {
	path string
	http *http.Client
}

// Dial makes a client for the socket at address, a path with or without
// unix:// before it; nothing is sent yet.
func Dial(address string) *Client {
	path := strings.TrimPrefix(address, "unix://")
	d := net.Dialer{Timeout: 5 * time.Second}
	return &Client{path, &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
		DisableKeepAlives: true,
	}}}
}

// Unreachable is the error when the daemon does not answer.
type Unreachable struct {
	Path string
	Err  error
}

func (u *Unreachable) Error() string { return "reach lbd at " + u.Path + ": " + u.Err.Error() }

// Unwrap gives the cause.
func (u *Unreachable) Unwrap() error { return u.Err }

// Status answers the five daily questions.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.get(ctx, "/v1/status", &s)
}

// Backends lists every backend of every pool.
func (c *Client) Backends(ctx context.Context) (b []Backend, err error) {
	return b, c.get(ctx, "/v1/backends", &b)
}

// Certificates lists those that are shown to clients and backends.
func (c *Client) Certificates(ctx context.Context) (all []Certificate, err error) {
	return all, c.get(ctx, "/v1/certificates", &all)
}

// Crashes lists the last workers that ended by themselves, newest first.
func (c *Client) Crashes(ctx context.Context) (all []lb.Crash, err error) {
	return all, c.get(ctx, "/v1/crashes", &all)
}

// Refused lists the last malformed requests, newest first.
func (c *Client) Refused(ctx context.Context) (all []Refusal, err error) {
	return all, c.get(ctx, "/v1/refused", &all)
}

// Version says what runs.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.get(ctx, "/v1/version", &v)
}

// History lists the generations that are kept, newest first.
func (c *Client) History(ctx context.Context) (h []Generation, err error) {
	return h, c.get(ctx, "/v1/config/history", &h)
}

// Events lists what happened after a number, oldest first.
func (c *Client) Events(ctx context.Context, after uint64) (e []Event, err error) {
	return e, c.get(ctx, fmt.Sprintf("/v1/events?after=%d", after), &e)
}

// Document gives a generation's text; "" is the running one.
func (c *Client) Document(ctx context.Context, generation string) (Document, error) {
	res, err := c.send(ctx, "GET", "/v1/config?generation="+url.QueryEscape(generation), nil, nil)
	if err != nil {
		return Document{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return Document{}, &Unreachable{c.path, err}
	}
	return Document{strings.Trim(res.Header.Get("ETag"), `"`), string(text)}, nil
}

// Story says why a backend (POOL/ADDRESS) is in the state it is in.
func (c *Client) Story(ctx context.Context, backend string) (s Story, err error) {
	return s, c.get(ctx, "/v1/backends/story?id="+url.QueryEscape(backend), &s)
}

// Traffic is what was counted so far.
func (c *Client) Traffic(ctx context.Context) (t Traffic, err error) {
	return t, c.get(ctx, "/v1/traffic", &t)
}

// OpenAPI is the description of the API.
func (c *Client) OpenAPI(ctx context.Context) (d map[string]any, err error) {
	return d, c.get(ctx, "/v1/openapi.json", &d)
}

// Diff says what a text would change.
func (c *Client) Diff(ctx context.Context, text []byte, file string) (a Applied, err error) {
	return a, c.call(ctx, "POST", "/v1/config/diff?file="+url.QueryEscape(file), "", text, &a)
}

// Apply replaces the document.
func (c *Client) Apply(ctx context.Context, text []byte, file string, how Ask) (a Applied, err error) {
	return a, c.call(ctx, "PUT", "/v1/config?"+how.query("file", file), how.Match, text, &a)
}

// Confirm keeps a change that is on trial.
func (c *Client) Confirm(ctx context.Context, how Ask) (Applied, error) {
	return c.change(ctx, "/v1/config/confirm", how, nil)
}

// Adopt moves the objects from the file to the document.
func (c *Client) Adopt(ctx context.Context, how Ask) (Applied, error) {
	return c.change(ctx, "/v1/config/adopt", how, nil)
}

// Release gives the objects back to the file.
func (c *Client) Release(ctx context.Context, o ReleaseOrder, how Ask) (Applied, error) {
	return c.change(ctx, "/v1/config/release", how, o)
}

// Reload has the node read its file again.
func (c *Client) Reload(ctx context.Context, how Ask) (Applied, error) {
	return c.change(ctx, "/v1/config/reload", how, nil)
}

// Rollback makes an earlier generation's objects a new generation.
func (c *Client) Rollback(ctx context.Context, o RollbackOrder, how Ask) (Applied, error) {
	return c.change(ctx, "/v1/config/rollback", how, o)
}

// EditBackend changes one backend in the document.
func (c *Client) EditBackend(ctx context.Context, e BackendEdit, how Ask) (Applied, error) {
	return c.change(ctx, "/v1/backends", how, e)
}

// OrderBackend changes a backend's overlay.
func (c *Client) OrderBackend(ctx context.Context, o BackendOrder, how Ask) error {
	return c.order(ctx, "/v1/backends/order", how.Match, o, nil)
}

// OrderListener drains a listener or takes the drain back.
func (c *Client) OrderListener(ctx context.Context, o ListenerOrder, how Ask) error {
	return c.order(ctx, "/v1/listeners/order", how.Match, o, nil)
}

// OrderWorker drains a worker or takes the drain back.
func (c *Client) OrderWorker(ctx context.Context, o WorkerOrder, how Ask) error {
	return c.order(ctx, "/v1/workers/order", how.Match, o, nil)
}

// OrderNode drains a node or takes the drain back.
func (c *Client) OrderNode(ctx context.Context, o NodeOrder, how Ask) error {
	return c.order(ctx, "/v1/nodes/order", how.Match, o, nil)
}

// Leave has a node drain, say good-bye and exit.
func (c *Client) Leave(ctx context.Context, o LeaveOrder, how Ask) error {
	return c.order(ctx, "/v1/nodes/leave", how.Match, o, nil)
}

// Keys lists which keys of the cluster the nodes have.
func (c *Client) Keys(ctx context.Context) ([]KeyRing, error) {
	var all []KeyRing
	err := c.get(ctx, "/v1/cluster/keys", &all)
	return all, err
}

// ChangeKey changes this node's keys of the cluster.
func (c *Client) ChangeKey(ctx context.Context, o KeyOrder, how Ask) error {
	return c.order(ctx, "/v1/cluster/keys", how.Match, o, nil)
}

// Upgrade replaces the workers.
func (c *Client) Upgrade(ctx context.Context, o UpgradeOrder, how Ask) error {
	return c.order(ctx, "/v1/upgrade", how.Match, o, nil)
}

// query renders how a change is asked for, and further parameters.
func (a Ask) query(more ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	if a.DryRun {
		q.Set("dry_run", "true")
	}
	if a.Confirm > 0 {
		q.Set("confirm", a.Confirm.String())
	}
	return q.Encode()
}

// change asks for a change of the configuration; in is its order, or nil.
func (c *Client) change(ctx context.Context, path string, how Ask, in any) (a Applied, err error) {
	path = strings.TrimSuffix(path+"?"+how.query(), "?")
	if in == nil {
		return a, c.call(ctx, "POST", path, how.Match, nil, &a)
	}
	return a, c.order(ctx, path, how.Match, in, &a)
}

// Explain says what would happen to a flow or a request.
func (c *Client) Explain(ctx context.Context, q Question) (e Explanation, err error) {
	return e, c.order(ctx, "/v1/explain", "", q, &e)
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	return c.call(ctx, "GET", path, "", nil, out)
}

func (c *Client) order(ctx context.Context, path, match string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.call(ctx, "POST", path, match, body, out)
}

func (c *Client) call(ctx context.Context, method, path, match string, body []byte, out any) error {
	var head http.Header
	if match != "" {
		head = http.Header{"If-Match": {`"` + match + `"`}}
	}
	res, err := c.send(ctx, method, path, head, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return &Unreachable{c.path, fmt.Errorf("read the answer: %w", err)}
	}
	return nil
}

// send gives an answer of status 200, whose body the caller closes.
func (c *Client) send(ctx context.Context, method, path string, head http.Header, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://lbd"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range head {
		r.Header[name] = values
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, &Unreachable{c.path, inner(err)}
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.problem(res)
}

// inner drops the URL that net/http puts around an error, for it is made up,
// and the path that a dial puts there, for Unreachable has it.
func inner(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if o := (*net.OpError)(nil); errors.As(err, &o) && o.Op == "dial" {
		err = o.Err
	}
	return err
}

func (c *Client) problem(res *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return &Unreachable{c.path, err}
	}
	e := &Error{}
	if json.Unmarshal(text, e) != nil || e.Code == "" {
		return &Unreachable{c.path, fmt.Errorf("what answers is no lbd: %s", res.Status)}
	}
	return e
}
