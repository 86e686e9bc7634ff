package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
func wrk(ctx context.Context, _ *bench, url string, length time.Duration) (int, error) {
	return wrkOn(ctx, 64, url, length)
}

// wrkFew keeps 8 busy, whose responses are long.
func wrkFew(ctx context.Context, _ *bench, url string, length time.Duration) (int, error) {
	return wrkOn(ctx, 8, url, length)
}

func wrkOn(ctx context.Context, connections int, url string, length time.Duration) (int, error) {
	seconds := strconv.Itoa(max(1, int(length.Seconds()))) + "s"
	out, err := pinned(ctx, loadCore, "wrk", "-t1", "-c"+strconv.Itoa(connections), "-d"+seconds, url)
	if err != nil {
		return 0, err
	}
	if bad := wrkErrors.Find(out); bad != nil {
		return 0, fmt.Errorf("wrk: %s", bad)
	}
	return count(wrkCount, out)
}

// h2load keeps 16 connections of 10 streams busy.
func h2load(ctx context.Context, _ *bench, url string, length time.Duration) (int, error) {
	return h2loadWith(ctx, url, length)
}

// unary does the same with gRPC calls. Nobody on the way looks into a message.
func unary(ctx context.Context, b *bench, url string, length time.Duration) (int, error) {
	return h2loadWith(ctx, url, length, "-d", filepath.Join(b.dir, "message"), "-H", "content-type: application/grpc", "-H", "te: trailers")
}

func h2loadWith(ctx context.Context, url string, length time.Duration, more ...string) (int, error) {
	seconds := strconv.Itoa(max(1, int(length.Seconds())))
	args := append([]string{"-t1", "-c16", "-m10", "-D", seconds}, more...)
	out, err := pinned(ctx, loadCore, "h2load", append(args, url)...)
	if err != nil {
		return 0, err
	}
	m := h2loadCount.FindSubmatch(out)
	if m == nil || string(m[2]) != "0" || string(m[3]) != "0" {
		return 0, fmt.Errorf("h2load: not every request succeeded:\n%s", out)
	}
	return count(h2loadCount, out)
}

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

// shakers is how many connections are made at once.
const shakers = 16

var shakeCount = regexp.MustCompile(`^(\d+) handshakes`)

// handshakes makes connections, one after the other, in a process of its own.
func handshakes(ctx context.Context, _ *bench, url string, length time.Duration) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, err := pinned(ctx, loadCore, self, "-shake", strings.TrimPrefix(url, "https://"), "-length", length.String())
	if err != nil {
		return 0, err
	}
	return count(shakeCount, out)
}

// shakeHands is that process: handshakes for so long, and how many there were.
func shakeHands(addr string, length time.Duration) {
	config := &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		CurvePreferences: []tls.CurveID{tls.X25519}, // OpenSSL 3.0 knows no ML-KEM
	}
	var all sync.WaitGroup
	var made atomic.Int64
	end := time.Now().Add(length)
	for range shakers {
		all.Go(func() {
			for time.Now().Before(end) {
				c, err := tls.Dial("tcp", addr, config)
				if err != nil {
					log.Fatalf("after %d handshakes: %v", made.Load(), err)
				}
				made.Add(1)
				c.Close()
			}
		})
	}
	all.Wait()
	fmt.Printf("%d handshakes\n", made.Load())
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
