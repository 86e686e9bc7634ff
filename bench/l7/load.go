package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// The generators come from Debian: wrk for HTTP/1, h2load (nghttp2-client) for
// HTTP/2. A response that is not 2xx fails the measurement.

var (
	wrkCount    = regexp.MustCompile(`(\d+) requests in`)
	wrkErrors   = regexp.MustCompile(`Non-2xx or 3xx responses: \d+|Socket errors: connect [^\n]+`)
	h2loadCount = regexp.MustCompile(`requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored`)
)

// wrk keeps 64 connections busy and returns how many requests were answered.
func wrk(ctx context.Context, port int, length time.Duration) (int, error) {
	seconds := strconv.Itoa(max(1, int(length.Seconds()))) + "s"
	out, err := pinned(ctx, loadCore, "wrk", "-t1", "-c64", "-d"+seconds, url(port))
	if err != nil {
		return 0, err
	}
	if bad := wrkErrors.Find(out); bad != nil {
		return 0, fmt.Errorf("wrk: %s", bad)
	}
	return count(wrkCount, out)
}

// h2load keeps 16 connections of 10 streams busy.
func h2load(ctx context.Context, port int, length time.Duration) (int, error) {
	seconds := strconv.Itoa(max(1, int(length.Seconds())))
	out, err := pinned(ctx, loadCore, "h2load", "-t1", "-c16", "-m10", "-D", seconds, url(port))
	if err != nil {
		return 0, err
	}
	m := h2loadCount.FindSubmatch(out)
	if m == nil || string(m[2]) != "0" || string(m[3]) != "0" {
		return 0, fmt.Errorf("h2load: not every request succeeded:\n%s", out)
	}
	return count(h2loadCount, out)
}

func url(port int) string { return fmt.Sprintf("http://127.0.0.1:%d/", port) }

func count(pattern *regexp.Regexp, out []byte) (int, error) {
	m := pattern.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no count of requests in:\n%s", out)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err == nil && n == 0 {
		err = fmt.Errorf("no request was answered:\n%s", out)
	}
	return n, err
}

// pinned runs a command on one core and returns what it printed.
func pinned(ctx context.Context, core int, name string, args ...string) ([]byte, error) {
	args = append([]string{"-c", strconv.Itoa(core), name}, args...)
	out, err := exec.CommandContext(ctx, "taskset", args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return out, nil
}
