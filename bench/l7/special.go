package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// engine runs the benchmark of l7 that needs no network: CPU time of the thread,
// the least of some runs, for a busy neighbour only ever adds to it.
func engine(ctx context.Context, b *bench, p plan) ([]verdict, error) {
	out, err := exec.CommandContext(ctx, "taskset", "-c", strconv.Itoa(proxyCore), p.tool, "test", "./l7",
		"-run", "^$", "-bench", "Engine", "-benchtime", "30000x", "-count", "15").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test ./l7: %w\n%s", err, out)
	}
	least, allocations := map[string]float64{}, map[string]float64{}
	for line := range bytes.Lines(out) {
		f := strings.Fields(string(line))
		if len(f) < 3 || !strings.HasPrefix(f[0], "BenchmarkEngine/") {
			continue
		}
		name := strings.TrimPrefix(f[0], "BenchmarkEngine/filters=")
		name, _, _ = strings.Cut(name, "-")
		for i := 3; i < len(f); i += 2 {
			n, _ := strconv.ParseFloat(f[i-1], 64)
			switch f[i] {
			case "cpu-ns/op":
				if had, ok := least[name]; !ok || n < had {
					least[name] = n
				}
			case "allocs/op":
				allocations[name] = max(allocations[name], n)
			}
		}
	}
	if least["0"] == 0 || least["10"] == 0 {
		return nil, fmt.Errorf("no numbers in:\n%s", out)
	}
	each := (least["10"] - least["0"]) / 10
	fmt.Printf("  a plain request %.0f ns, with a filter %.0f, with ten %.0f\n", least["0"], least["1"], least["10"])
	return []verdict{
		{what: "a header set", measured: fmt.Sprintf("%.0f ns each of ten", each), target: "<= 60 ns", held: each <= 60},
		{what: "allocations", measured: fmt.Sprintf("%.0f, %.0f with filters", allocations["0"], allocations["10"]), target: "0", held: allocations["0"] == 0},
	}, nil
}

// latency is what a proxy adds to the 99th percentile while it has half of what
// it could bear. Half of the slower one's most, of lbd and nginx, is the load of
// all.
func latency(ctx context.Context, b *bench, p plan) ([]verdict, error) {
	most := 0.0
	names := []string{"lbd", "nginx", "haproxy"}
	for _, name := range names[:2] {
		at := b.proxies[name]
		if at == nil {
			return []verdict{{what: "p99", measured: "no " + name}}, nil
		}
		n, err := wrk(ctx, b, at.url(onPlain)+"/", p.length)
		if err != nil {
			return nil, err
		}
		if rate := float64(n) / p.length.Seconds(); most == 0 || rate < most {
			most = rate
		}
	}
	tails := map[string][]time.Duration{}
	for range p.rounds {
		for _, name := range append([]string{"origin"}, names...) {
			at := b.proxies[name]
			if at == nil {
				continue
			}
			tail, err := b.tail(ctx, at.url(onPlain)+"/", most/2, p.length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			tails[name] = append(tails[name], tail)
		}
	}
	same := func(d time.Duration) time.Duration { return d }
	direct := middle(tails["origin"], same)
	fmt.Printf("  %.0f requests per second; p99 of the origin alone %.0f us, median of %d rounds\n", most/2, us(direct), p.rounds)
	added := map[string]time.Duration{}
	for _, name := range names {
		if len(tails[name]) > 0 {
			added[name] = middle(tails[name], same) - direct
			fmt.Printf("  %-12s adds %.0f us [%.0f .. %.0f]\n", name, us(added[name]), us(slices.Min(tails[name])-direct), us(slices.Max(tails[name])-direct))
		}
	}
	return []verdict{{what: "added p99", measured: fmt.Sprintf("%.0f us, nginx's %.0f us", us(added["lbd"]), us(added["nginx"])),
		target: "<= nginx's", held: added["lbd"] <= added["nginx"]}}, nil
}

// tail is the 99th percentile at a fixed rate, from 32 connections.
func (b *bench) tail(ctx context.Context, url string, rate float64, length time.Duration) (time.Duration, error) {
	const connections = 32
	file := filepath.Join(b.dir, "latencies")
	os.Remove(file)
	out, err := pinned(ctx, loadCore, "h2load", "--h1", "-t1", "-c"+strconv.Itoa(connections), "-m1", "--rps", strconv.FormatFloat(rate/connections, 'f', 1, 64),
		"-D", strconv.Itoa(max(1, int(length.Seconds()))), "--log-file", file, url)
	if err != nil {
		return 0, err
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var all []time.Duration
	for in := bufio.NewScanner(f); in.Scan(); { // start, status, microseconds
		if f := strings.Fields(in.Text()); len(f) >= 3 && f[1] == "200" {
			n, _ := strconv.Atoi(f[2])
			all = append(all, time.Duration(n)*time.Microsecond)
		}
	}
	if len(all) < 100 {
		return 0, fmt.Errorf("only %d answers:\n%s", len(all), out)
	}
	all = all[len(all)/10:] // the beginning, when connections are made
	slices.Sort(all)
	return all[len(all)*99/100], nil
}

// reuse counts the connections that an lbd of two threads makes to 64 backends,
// once it is warm: those that the origin, who plays them all, accepts.
func reuse(ctx context.Context, b *bench, p plan) ([]verdict, error) {
	const concurrency = 64
	at, err := b.startReuse(p.lbd)
	if err != nil {
		return nil, err
	}
	url := at.url(onPlain) + "/"
	load := func(length time.Duration) (requests, accepted int, err error) {
		before, err := b.accepted()
		if err != nil {
			return 0, 0, err
		}
		requests, err = wrkOn(ctx, concurrency, url, length)
		if err != nil {
			return 0, 0, err
		}
		after, err := b.accepted()
		return requests, after - before, err
	}
	first, cold, err := load(time.Second)
	if err != nil {
		return nil, err
	}
	n, made, err := load(p.length * time.Duration(p.rounds))
	if err != nil {
		return nil, err
	}
	each := float64(made) / float64(n) * 1e6
	fmt.Printf("  %d connections made by the first %d requests, %d by the next %d\n", cold, first, made, n)
	return []verdict{{what: "connections per 10^6", measured: fmt.Sprintf("%.0f", each), target: fmt.Sprintf("<= %d", 2*concurrency), held: each <= 2*concurrency}}, nil
}

// accepted is how many connections the origin has accepted, but for ours.
func (b *bench) accepted() (int, error) {
	b.asked++
	r, err := http.Get(b.proxies["origin"].url(onPlain) + "/status")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(text), "\n") // Active..., server accepts..., " N N N"
	if len(lines) < 3 || len(strings.Fields(lines[2])) != 3 {
		return 0, fmt.Errorf("the origin's status is %q", text)
	}
	http.DefaultClient.CloseIdleConnections()
	n, err := strconv.Atoi(strings.Fields(lines[2])[0])
	return n - b.asked, err
}

// takeProfile runs an lbd that profiles itself under the loads of short messages.
func takeProfile(ctx context.Context, p plan, to string) error {
	var loads []row
	for _, r := range rows { // short messages: handshakes and long bodies are other people's code
		if r.special == nil && (r.path == "/" || r.path == "/unary") && !slices.Contains(r.who, logging) {
			loads = append(loads, r)
		}
	}
	weight := func(i int) time.Duration { return max(1, 3-time.Duration(i)) } // what is usual counts most
	var sum time.Duration
	for i := range loads {
		sum += weight(i) * p.length
	}
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lbd-profile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil { // the worker is somebody else
		return err
	}
	out := filepath.Join(dir, "cpu")
	os.Setenv("LBD_PROFILE", out)
	os.Setenv("LBD_PROFILE_FOR", sum.String())
	b, err := setUpOnly(ctx, p.lbd)
	defer b.close()
	if err != nil {
		return err
	}
	at := b.proxies["lbd"]
	end := time.Now().Add(sum)
	for i, r := range loads {
		n, err := r.load(ctx, b, at.url(r.on)+r.path, weight(i)*p.length)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		fmt.Printf("%s: %d requests\n", r.name, n)
	}
	time.Sleep(time.Until(end) + 2*time.Second)
	text, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}
